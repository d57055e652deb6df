"""Models whose weights depend on the input: one file per kind of mixture."""
