"""An artifact as its engine finds it, and its weights, read by code that shares nothing with what wrote them."""
