"""How mergekit and DELLA put sparse task vectors together: weigh, elect, sum, normalise, scale."""

import numpy as np

from tests.references.common import Array, State, add_up, as_float64


def elected(rows: Array) -> Array:
    """The sign of the sum over the models, zero counting as plus."""
    return np.where(add_up(rows) >= 0, 1.0, -1.0)


def fused(taus: Array, weight: list[float], *, elect: bool, normalize: bool) -> Array:
    """Weighted sum of the (agreeing) entries; if `normalize`, divided by the weights of those that were counted.

    Weights that cancel count as 1: with an election where their sum is exactly 0, without where it is below 1e-8.
    """
    rows = np.stack([w * tau for w, tau in zip(weight, taus)])
    counted = np.sign(rows) == elected(rows) if elect else np.full(rows.shape, True)
    summed = add_up(np.where(counted, rows, 0.0))
    if not normalize:
        return summed
    divisor = add_up(np.stack([w * chosen for w, chosen in zip(weight, counted)]))
    none = divisor == 0 if elect else np.abs(divisor) < 1e-8
    return summed / np.where(none, 1.0, divisor)


def fuse(
    base: State, changes: list[State], weight: list[float], *, scale: float, elect: bool, normalize: bool
) -> State:
    """Base plus `scale` times the fused task vectors, one tensor at a time."""
    result: State = {}
    for name, start in as_float64(base).items():
        taus = np.stack([delta[name] for delta in changes])
        result[name] = start + scale * fused(taus, weight, elect=elect, normalize=normalize)
    return result
