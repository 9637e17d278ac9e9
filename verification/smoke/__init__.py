"""Five prompts that the artifact continues."""
