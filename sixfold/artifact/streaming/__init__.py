"""Plans carried out: one walk over the source, work in its order, files that grow behind it."""
