"""report.html over all variants of a model."""
