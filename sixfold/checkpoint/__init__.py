"""How weights are stored and read, local or on the Hub."""
