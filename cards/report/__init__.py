"""report.html for all variants of a model."""
