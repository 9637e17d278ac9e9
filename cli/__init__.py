"""The command line: options in, text out; imports everything, imported by nothing."""
