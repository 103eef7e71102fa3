"""Is this checkpoint sound? What is looked at, what was found, and how it is told."""
