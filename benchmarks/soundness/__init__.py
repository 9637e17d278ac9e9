"""Whether all families are met, all damages found, and nothing lost to faults; and sizes that others published."""
