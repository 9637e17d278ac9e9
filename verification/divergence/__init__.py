"""How far the artifact's outputs are from its source's."""
