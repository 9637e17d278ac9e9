"""What precedes the tensors of a GGUF file: general keys, the numbers of the model, and its tokenizer."""
