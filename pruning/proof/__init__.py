"""Whether a pruned checkpoint equals the original with the pruned experts masked, and what pruning cost."""
