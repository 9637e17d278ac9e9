"""How tensors lie in files: which files hold weights, their headers, and how each encoding is read."""
