"""Kinds of projectors, by the tower before them: what is declared of each, with what only its own keys need."""
