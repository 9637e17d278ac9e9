"""What formats, mixes, pruning and healing cost a model, and what each technique brings."""
