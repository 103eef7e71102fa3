"""PCB-Merging: weigh every entry by its competition within and between the models (arXiv 2410.02396)."""

import numpy as np

from tests.references.common import Array, State, add_up, flatten, unflatten

# variant: share clamped at both ends of the magnitudes, rule of competition between models, lambda inside the ratio
VARIANTS = {
    "reference": (0.0001, "raw", False),
    "nlp": (0.01, "raw", False),
    "vision": (0.01, "scaled", True),
    "vision_es": (0.01, "pairs", True),
}


def to_unit(rows: Array) -> Array:
    """Min-max scaling of each row to [0, 1]; a constant row becomes zeros (0/0 in the official code)."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    return np.where(high > low, (rows - low) / np.where(high > low, high - low, 1.0), 0.0)


def clamped(rows: Array, low: float, high: float) -> Array:
    """Clip each row to its sorted values at index int(d * low) and int(d * (1 - high) - 1)."""
    ordered = np.sort(rows, axis=1)
    size = rows.shape[1]
    bottom, top = ordered[:, int(size * low)], ordered[:, int(size * (1 - high) - 1)]
    return np.minimum(np.maximum(rows, bottom[:, None]), top[:, None])


def between(rule: str, taus: Array, magnitudes: Array) -> Array:
    """How far each entry agrees with the others: `raw`, `scaled` or summed over `pairs` of models, itself included."""
    if rule == "raw":
        return np.tanh(taus * add_up(taus))
    unit = np.sign(taus) * to_unit(magnitudes)
    if rule == "scaled":
        return np.tanh(taus * add_up(unit))
    return np.stack([add_up(np.stack([np.tanh(one * other) for other in unit])) for one in unit])


def scores(taus: Array, ratio: float, variant: str) -> tuple[Array, Array]:
    """The clamped task vectors and the weight of every entry in them; (models, entries) in and out."""
    clamp, rule, _ = VARIANTS[variant]
    magnitudes = clamped(np.abs(taus), clamp, clamp)
    within = np.exp(len(taus) * to_unit(magnitudes) ** 2)
    competed = within * between(rule, taus, magnitudes)
    return np.sign(taus) * magnitudes, to_unit(clamped(competed, 1 - ratio, 0.0))


def pcb(
    base: State,
    models: list[State],
    *,
    ratio: float,
    scale: float | list[float] = 1.0,
    variant: str = "reference",
) -> State:
    """Base plus the per-entry mean of the clamped task vectors weighted by their scores.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        ratio: the paper's r; up to the (1 - r) quantile of the scores a weight is exactly 0.
        scale: the paper's lambda, one number; a number for each model in the vision variants, inside the mean.
        variant: which of the four official algorithms.

    """
    names = sorted(base)
    start = flatten(base, names)
    taus = np.stack([flatten(model, names) - start for model in models])
    values, weights = scores(taus, ratio, variant)
    if isinstance(scale, list):
        values, scale = values * np.array(scale)[:, None], 1.0
    merged = add_up(values * weights) / np.maximum(add_up(weights), 1e-12)
    return unflatten(start + scale * merged, base, names)
