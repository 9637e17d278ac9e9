"""Where files that somebody else wrote become data: one reader per kind, each of which refuses with one sentence."""
