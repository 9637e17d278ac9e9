"""Recipes and results of tools that do the whole job themselves."""
