"""Slow float64 references of the merging methods, one file per family, to test the fast ones against.

They follow `tests/reference.py`, which holds linear, task arithmetic, TIES and Fisher: a state dict is a plain dict of
arrays, every function is pure and gives float64 arrays, nothing is checked or optimised, and whatever is drawn at
random is an argument. Where the papers or the official code leave a choice, the docstring says which one is taken.
"""
