"""What papers measured, as data: which checkpoints, which tasks, how they are scored, and what was found."""
