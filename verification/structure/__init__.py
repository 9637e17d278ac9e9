"""Names, shapes, scales, configuration and keys: what can be told without the source."""
