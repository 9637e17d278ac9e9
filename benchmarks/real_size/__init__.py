"""The whole job at a model's real size, with weights that exist only while they are read."""
