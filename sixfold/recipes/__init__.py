"""Recipes: what one variant is made of."""
