"""What a method does to one parameter: one file per method."""
