"""Means on the sphere: slerp, multislerp, Karcher. Vectors are rows, tensors or whole models."""

from collections.abc import Callable

import numpy as np

from tests.references.common import Array, State, add_up, as_float64, by_scope, change, merged_from


def unit(vector: Array) -> Array:
    """A vector divided by its length; zeros stay zeros."""
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def angle(a: Array, b: Array) -> float:
    """Angle between two unit vectors, exact for small and for nearly straight angles."""
    return float(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


def slerp_vectors(a: Array, b: Array, t: float, straight: float) -> Array:
    """From a to b by the share t of the angle; along the line if |cos| > `straight` or one of them is zero.

    The coefficients are those of unit vectors, applied to the vectors as they are (as mergekit does): lengths are
    not interpolated on their own.
    """
    if not np.any(a) or not np.any(b) or abs(unit(a) @ unit(b)) > straight:
        return (1 - t) * a + t * b
    theta = angle(unit(a), unit(b))
    if np.sin(theta) < 1e-9:  # on one line but for rounding, whatever `straight` is
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def slerp(base: State, models: list[State], *, t: float, scope: str = "tensor", straight: float = 0.9995) -> State:
    """From the base (t = 0) to the only model (t = 1)."""
    (model,) = models
    return by_scope([base, model], scope, lambda pair: slerp_vectors(pair[0], pair[1], t, straight))


def slerp_changes(
    base: State, models: list[State], *, t: float, scope: str = "tensor", straight: float = 0.9995
) -> State:
    """Base plus the slerp of the task vectors of two models, from the first (t = 0) to the second."""
    first, second = (change(base, model) for model in models)
    merged = by_scope([first, second], scope, lambda pair: slerp_vectors(pair[0], pair[1], t, straight))
    return merged_from(base, merged)


def shares(weight: list[float], normalize: bool = True) -> Array:
    """Weights as an array, divided by their sum if `normalize`."""
    values = np.array(weight, np.float64)
    return values / values.sum() if normalize else values


def multislerp_vectors(rows: Array, weight: Array, epsilon: float) -> Array:
    """Direction of the weighted mean of the unit vectors, times the weighted mean length.

    mergekit's step in the tangent space is zero by construction and left out. A mean below epsilon is the weighted
    mean of the vectors for two models (the specification says linear) and an error for more; one model is returned.
    Where all are zero so is the result (an error for more than two in mergekit: a frozen tensor would stop the merge).
    """
    if len(rows) == 1 or not rows.any():
        return rows[0]
    mean = add_up(np.stack([w * unit(row) for w, row in zip(weight, rows)]))
    if np.linalg.norm(mean) < epsilon:
        if len(rows) == 2:
            return add_up(weight[:, None] * rows)
        raise ValueError("the weighted mean of the directions is zero")
    return unit(mean) * float(np.sum(weight * np.linalg.norm(rows, axis=1)))


def multislerp(
    models: list[State],
    *,
    weight: list[float],
    base: State | None = None,
    normalize: bool = True,
    scope: str = "tensor",
    epsilon: float = 1e-8,
) -> State:
    """Normalised mean of the models, or with a base of the task vectors."""
    return of_models_or_changes(
        models, base, scope, lambda rows: multislerp_vectors(rows, shares(weight, normalize), epsilon)
    )


def logarithm(at: Array, point: Array) -> Array:
    """The tangent vector at a unit vector that leads to another along the great circle."""
    sideways = point - (at @ point) * at
    return angle(at, point) * unit(sideways)


def exponential(at: Array, tangent: Array) -> Array:
    """Where the great circle along a tangent vector arrives."""
    length = np.linalg.norm(tangent)
    return unit(np.cos(length) * at + np.sin(length) * unit(tangent))


def karcher_direction(units: Array, weight: Array, tolerance: float, steps: int) -> Array:
    """The Riemannian mean of unit vectors: the point where the weighted logarithms cancel.

    It starts at the normalised mean, or where that vanishes at the heaviest point. The mean is unique if all points lie
    in one open half-sphere; two opposite points have none.
    """
    start = add_up(weight[:, None] * units)
    mean = unit(start) if np.linalg.norm(start) > 1e-12 else units[int(np.argmax(weight))]
    for _ in range(steps):
        tangent = add_up(np.stack([w * logarithm(mean, point) for w, point in zip(weight, units)]))
        if np.linalg.norm(tangent) <= tolerance:
            break
        mean = exponential(mean, tangent)
    return mean


def karcher_vectors(rows: Array, weight: Array, tolerance: float, steps: int) -> Array:
    """The mean direction of what has one, times the weighted mean of all lengths, zero ones included."""
    lengths = np.linalg.norm(rows, axis=1)
    present = (lengths > 0) & (weight > 0)
    if not present.any():
        return np.zeros(rows.shape[1])
    units = np.stack([unit(row) for row in rows[present]])
    counted = weight[present] / weight[present].sum()
    return karcher_direction(units, counted, tolerance, steps) * float(np.sum(weight * lengths))


def karcher(
    models: list[State],
    *,
    weight: list[float],
    base: State | None = None,
    scope: str = "tensor",
    tolerance: float = 1e-14,
    steps: int = 1000,
) -> State:
    """Weighted Riemannian mean on the sphere of the models, or with a base of the task vectors.

    Args:
        models: the models; mergekit has no base here and counts one that is named among the models.
        weight: nonnegative weights, divided by their sum.
        base: if given, the task vectors are averaged and the result is added to it.
        scope: what is one vector: a row along the last axis, a tensor, or the model.
        tolerance: length of the tangent step at which to stop, in radians.
        steps: limit of the iteration.

    """
    return of_models_or_changes(
        models, base, scope, lambda rows: karcher_vectors(rows, shares(weight), tolerance, steps)
    )


def of_models_or_changes(
    models: list[State], base: State | None, scope: str, function: Callable[[Array], Array]
) -> State:
    """A mean of the models, or with a base of the task vectors, added to it."""
    if base is None:
        return by_scope([as_float64(model) for model in models], scope, function)
    return merged_from(base, by_scope([change(base, model) for model in models], scope, function))
