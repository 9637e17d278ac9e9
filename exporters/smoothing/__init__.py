"""Scales moved between weights before AWQ rounds them."""
