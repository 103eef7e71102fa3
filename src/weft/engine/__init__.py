"""In what order, on which workers, within which memory: methods in, tensors out."""
