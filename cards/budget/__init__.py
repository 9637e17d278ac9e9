"""The memory that running a model takes: caches, buffers, weights, machines."""
