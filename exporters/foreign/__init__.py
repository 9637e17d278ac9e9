"""Recipes and results of external tools that do the entire quantization."""
