"""How good is it? Tasks as small files, metrics, heads, and results that are computed once."""
