"""The spine: what every stage stands on, in rooms by concept."""

__version__ = "0.1.0"
