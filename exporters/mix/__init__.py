"""Which type each part of a model gets, to a budget of bytes: damage foretold from statistics, and the choice."""
