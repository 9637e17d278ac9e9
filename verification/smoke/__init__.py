"""Five prompts that the artifact goes on with."""
