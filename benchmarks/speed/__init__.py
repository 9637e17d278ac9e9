"""How long each stage takes, and its largest parts, beside what limits them."""
