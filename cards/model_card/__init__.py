"""README.md of a folder, rendered from facts."""
