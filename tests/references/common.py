"""What the references share."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np

from tests.reference import Array, Mask, State, add_up, as_float64, divide, flatten, unflatten

__all__ = [
    "Array",
    "Mask",
    "State",
    "add_up",
    "as_float64",
    "by_scope",
    "change",
    "divide",
    "excluded",
    "flatten",
    "merged_from",
    "of_rows",
    "total",
    "unflatten",
]


def change(base: State, model: State) -> State:
    """The task vector of a model: model minus base, in float64."""
    start, end = as_float64(base), as_float64(model)
    return {name: end[name] - start[name] for name in base}


def total(changes: list[State], weight: list[float] | None = None) -> State:
    """Weighted sum of task vectors, in the order of the models."""
    factors = [1.0] * len(changes) if weight is None else weight
    return {name: add_up(np.stack([w * c[name] for w, c in zip(factors, changes)])) for name in changes[0]}


def merged_from(base: State, delta: State, scale: float = 1.0) -> State:
    """Base plus `scale` times a change."""
    return {name: start + scale * delta[name] for name, start in as_float64(base).items()}


def excluded(name: str, patterns: list[str]) -> bool:
    """Whether the name of a tensor matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def of_rows(function: Callable[[Array], Array], tensor: Array) -> Array:
    """Apply a function of a vector to every row (along the last axis) of a tensor; a number is one row."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    return np.stack([function(row) for row in rows]).reshape(tensor.shape)


def by_scope(states: list[State], scope: str, function: Callable[[Array], Array]) -> State:
    """Apply a function of vectors (models, entries) to each row, each tensor, or the whole model, by sorted names."""
    names = sorted(states[0])
    if scope == "model":
        return unflatten(function(np.stack([flatten(state, names) for state in states])), states[0], names)
    result: State = {}
    for name in names:
        whole = np.stack([np.asarray(state[name], np.float64) for state in states])
        width = whole.shape[-1] if scope == "row" and whole.ndim > 1 else whole[0].size
        pieces = whole.reshape(len(states), -1, width)
        merged = [function(pieces[:, i]) for i in range(pieces.shape[1])]
        result[name] = np.stack(merged).reshape(whole.shape[1:])
    return result
