"""Keys, tensors, tokenizer and rotary positions of a GGUF file: what can be checked without the source."""
