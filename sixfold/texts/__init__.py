"""Held-out text and rendered conversations."""
