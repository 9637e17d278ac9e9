"""transformers' own model, one decoder layer in memory at a time."""
