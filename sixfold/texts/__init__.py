"""Text as the model sees it."""
