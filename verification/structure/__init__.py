"""Names, shapes, scales, configuration and keys: what can be checked without the source."""
