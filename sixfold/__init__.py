"""The spine: what every stage builds on, in rooms by concept."""

__version__ = "0.1.0"
