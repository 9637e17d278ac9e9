"""What a model keeps of the tokens that it has seen: by its config, and by what each engine makes of it."""
