"""What commands print of their results, several of them the same."""
