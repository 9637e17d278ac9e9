"""Recipes: how one variant is made."""
