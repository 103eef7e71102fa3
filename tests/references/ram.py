"""RAM and RAM+: keep what one model changed, average what several changed (as in mergekit; RAM+ also model-wide)."""

import numpy as np

from tests.references.common import Array, State, add_up, by_scope, change, divide, merged_from


def changed(taus: Array, epsilon: float) -> Array:
    """1 where a model moved an entry by more than epsilon, else 0."""
    return (np.abs(taus) > epsilon).astype(np.float64)


def overlap(taus: Array, epsilon: float) -> Array:
    """Shared over unique entries of each model, those that it changed with others and alone; 0 without unique ones."""
    moved = changed(taus, epsilon)
    alone = add_up(moved) == 1
    unique = np.sum(moved * alone, axis=1)
    return divide(np.sum(moved * ~alone, axis=1), unique)


def ram_vector(taus: Array, epsilon: float, r: float, alpha: float) -> Array:
    """Mean of the changes above epsilon; those of one model alone times 1 + r * clamp(overlap, 0, alpha)."""
    moved = changed(taus, epsilon)
    count = add_up(moved)
    gain = 1 + r * np.clip(overlap(taus, epsilon), 0, alpha)
    factor = np.where(count == 1, gain[:, None], 1.0)
    return divide(add_up(moved * taus * factor), count)


def ram(base: State, models: list[State], *, epsilon: float = 1e-5) -> State:
    """Base plus the mean, per entry, of the changes above epsilon."""
    return ram_plus(base, models, epsilon=epsilon, r=0.0, alpha=0.0)


def ram_plus(
    base: State,
    models: list[State],
    *,
    epsilon: float = 1e-5,
    r: float = 0.1,
    alpha: float = 0.2,
    scope: str = "model",
) -> State:
    """RAM with unique changes enlarged by an overlap counted over the `model` or in the `tensor` (mergekit)."""
    changes = [change(base, model) for model in models]
    return merged_from(base, by_scope(changes, scope, lambda taus: ram_vector(taus, epsilon, r, alpha)))
