"""Former names of modules."""
