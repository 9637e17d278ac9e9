"""What is asked of the Hugging Face Hub: requests with retries, permissions, repositories and collections."""
