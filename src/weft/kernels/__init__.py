"""How one tile is computed: number formats, the language of scalar functions, compiled loops, folds."""
