"""What the checkpoint is made of: layers, experts, Linears, and what reads what."""
