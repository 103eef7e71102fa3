"""Model Stock: how far from the base the mean of the models should lie, from the angle between them (2403.19522)."""

from itertools import combinations

import numpy as np

from tests.references.common import Array, State, add_up, as_float64, by_scope, merged_from


def pair_cosines(taus: Array, floor: str) -> list[float]:
    """Cosines of all pairs of task vectors, clamped to [-1, 1].

    `floor` says what guards the denominator: `add` puts 1e-8 on the product of the lengths (FusionBench), `clamp`
    makes it at least 1e-6 (mergekit). A zero task vector has cosine 0 with everything.
    """
    result: list[float] = []
    for a, b in combinations(taus, 2):
        product = np.linalg.norm(a) * np.linalg.norm(b)
        bottom = product + 1e-8 if floor == "add" else max(product, 1e-6)
        result.append(float(np.clip((a @ b) / bottom, -1, 1)))
    return result


def mean_cosine(taus: Array, average: str) -> float:
    """One cosine for all pairs: of the mean `angle` in degrees (FusionBench), or the mean `cosine` (mergekit)."""
    if average == "angle":
        degrees = [np.degrees(np.arccos(c)) for c in pair_cosines(taus, "add")]
        return float(np.cos(np.radians(np.mean(degrees))))
    return float(np.mean(pair_cosines(taus, "clamp")))


def stock_ratio(taus: Array, average: str) -> float:
    """t = N cos / (1 + (N - 1) cos); the denominator plus 1e-8 for `angle`; below 1e-6 in size t = 0 for `cosine`."""
    cosine, count = mean_cosine(taus, average), len(taus)
    bottom = 1 + (count - 1) * cosine
    if average == "angle":
        return count * cosine / (bottom + 1e-8)
    return 0.0 if abs(bottom) < 1e-6 else count * cosine / bottom


def model_stock(
    base: State,
    models: list[State],
    *,
    average: str = "angle",
    scope: str = "tensor",
    ignore: list[str] | None = None,
    clamp: bool = False,
) -> State:
    """Base plus t times the mean task vector; ignored tensors are the plain mean of the models.

    t may leave [0, 1] and does so for a negative cosine, unless `clamp`. With scope `row` each row along the last axis
    has its own t (mergekit's filter_wise), with `model` all tensors share one (the ignored ones are not measured).
    """
    start, left = as_float64(base), ignore or []

    def step(taus: Array) -> Array:
        t = stock_ratio(taus, average)
        return (min(max(t, 0.0), 1.0) if clamp else t) * add_up(taus) / len(taus)

    def mean(taus: Array) -> Array:
        return add_up(taus) / len(taus)

    changes = [{name: as_float64(model)[name] - start[name] for name in base} for model in models]
    measured = [{name: tau for name, tau in delta.items() if name not in left} for delta in changes]
    plain = [{name: tau for name, tau in delta.items() if name in left} for delta in changes]
    merged = by_scope(measured, scope, step) if measured[0] else {}
    return merged_from(base, {**merged, **by_scope(plain, "tensor", mean)})
