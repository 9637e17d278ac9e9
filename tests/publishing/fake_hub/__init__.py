"""A Hugging Face Hub for tests, on the loopback."""
