"""The pass: all tokens through one decoder layer after the other, watched."""
