"""One command of the command line per module, imported when it is called."""
