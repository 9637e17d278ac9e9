"""What running a model takes: caches, buffers, weights, machines."""
