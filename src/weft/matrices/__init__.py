"""What merge methods do to whole matrices: pure functions of torch tensors, one file for each method."""
