"""The progress display of tests."""

from sixfold.progress import unseen as silent

__all__ = ["silent"]
