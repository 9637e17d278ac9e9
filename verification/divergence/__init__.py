"""How far the artifact's answers are from its source's."""
