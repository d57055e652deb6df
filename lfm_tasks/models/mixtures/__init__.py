"""Models whose weights depend on the input: how they are stored and opened; one file per kind of mixture."""
