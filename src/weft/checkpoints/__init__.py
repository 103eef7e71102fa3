"""Where tensors live: read in ranges, never whole; written in place, and never half."""
