"""The spine: checkpoint, architecture, recipes, plans, streams and the command line."""

__version__ = "0.1.0"
