"""What is known of a model and its artifacts, each figure with the file it comes from."""
