"""What the methods share that need only lengths and angles: models as combinations of each other.

Their statistic is a Gram matrix, the inner products of the models (or of their task vectors); from it follows one
coefficient for each model, and the map is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import atan2, cos, sin, sqrt

from weft.algorithms.elections import Reals
from weft.algorithms.program import Gram, Number, Program, Statistic
from weft.kernels.element import element

Vector = list[float]
Matrix = Sequence[Sequence[float]]
Coefficients = Callable[[Matrix, Mapping[str, Number]], tuple[float, ...]]
"""From the inner products and all numbers to one coefficient for each model."""


@element
def combined_changes(base: float, tuned: Reals, coefficient: Reals) -> float:
    """One parameter: the base plus the weighted sum of the changes.

    Example:
        >>> combined_changes(1.0, (2.0, 3.0), coefficient=(0.5, 0.25))
        2.0
    """
    total = 0.0
    for theta, c in zip(tuned, coefficient):
        total += c * (theta - base)
    return base + total


@element
def combined_models(tuned: Reals, coefficient: Reals) -> float:
    """One parameter: the weighted sum of the models.

    Example:
        >>> combined_models((2.0, 3.0), coefficient=(0.5, 2.0))
        7.0
    """
    total = 0.0
    for theta, c in zip(tuned, coefficient):
        total += c * theta
    return total


@element
def change(base: float, tuned: float) -> float:
    """One model's change."""
    return tuned - base


@element
def value(tuned: float) -> float:
    """One model's value."""
    return tuned


def combination(
    coefficients: Coefficients, values: Mapping[str, Number], of_changes: bool, whole_model: bool
) -> Program:
    """A program: inner products, then a weighted sum.

    Args:
        coefficients: decides the weights.
        values: the numbers that it needs.
        of_changes: whether task vectors are combined, or the models themselves.
        whole_model: whether the vectors are whole models, or single tensors.
    """
    statistic = Statistic("coefficient", change if of_changes else value, Gram(coefficients))
    return Program(
        combined_changes if of_changes else combined_models,
        statistics=(statistic,),
        values=values,
        whole_model=whole_model,
        relative=of_changes,
    )


def cosine(gram: Matrix, i: int, j: int) -> float:
    """The cosine of the angle between two vectors; 0 if one of them is zero.

    Example:
        >>> cosine([[4.0, 3.0], [3.0, 9.0]], 0, 1), cosine([[0.0, 0.0], [0.0, 9.0]], 0, 1)
        (0.5, 0.0)
    """
    length = sqrt(gram[i][i]) * sqrt(gram[j][j])
    return min(max(gram[i][j] / length, -1.0), 1.0) if length > 0.0 else 0.0


_TOLERANCE = 1e-14
"""Radians: a step towards the mean that is this short ends the search."""

_STEPS = 1000
_RANK = 1e-14
"""Squared length of what is new in a unit vector, below which it is rounding."""


def mean_direction(gram: Matrix, weight: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of unit vectors whose combination is their Riemannian mean on the sphere, of length 1.

    It is the point from which the weighted great arcs to all vectors cancel out, found by going along their mean. The
    search begins at the normalised weighted mean, or where that vanishes at the vector of the largest weight. For the
    arc to a vector exactly opposite there is no one direction; it counts as none.

    Args:
        gram: cosines of the angles between the vectors.
        weight: not negative, of sum 1.

    Example:
        >>> [round(c, 12) for c in mean_direction([[1.0, 0.0], [0.0, 1.0]], [2 / 3, 1 / 3])]  # cos and sin of 30 degrees
        [0.866025403784, 0.5]
    """
    places = _places(gram)
    at = list(weight)
    if _length(_sum(places, at)) < 1e-9:
        heaviest = max(range(len(weight)), key=lambda i: weight[i])
        at = [float(i == heaviest) for i in range(len(weight))]
    for _ in range(_STEPS):
        at = _scaled(at, 1.0 / _length(_sum(places, at)))
        step = _step(places, at, weight)
        length = _length(_sum(places, step))
        if length <= _TOLERANCE:
            break
        at = [cos(length) * a + sin(length) / length * s for a, s in zip(at, step, strict=True)]
    return tuple(at)


def _step(places: Sequence[Vector], at: Vector, weight: Sequence[float]) -> Vector:
    """The weighted mean of the arcs to all vectors, as tangent vectors, in coefficients."""
    here = _sum(places, at)
    step = [0.0] * len(at)
    for j, (place, w) in enumerate(zip(places, weight, strict=True)):
        along = sum(x * y for x, y in zip(place, here, strict=True))
        aside = _length([x - along * y for x, y in zip(place, here, strict=True)])
        factor = w * atan2(aside, along) / aside if aside > 1e-9 else w * float(along > 0.0)
        step = [s - factor * along * a for s, a in zip(step, at, strict=True)]
        step[j] += factor
    return step


def _places(gram: Matrix) -> list[Vector]:
    """Unit vectors with these inner products, in as few dimensions as they need: a Cholesky factorisation."""
    rows: list[Vector] = []
    for i in range(len(gram)):
        row: Vector = []
        for j in range(i):
            known = sum(x * y for x, y in zip(row, rows[j], strict=False))
            row.append((gram[i][j] - known) / rows[j][j] if rows[j][j] > 0.0 else 0.0)
        left = 1.0 - sum(x * x for x in row)
        rows.append([*_scaled(row, 1.0 / _length(row)), 0.0] if left < _RANK else [*row, sqrt(left)])
    return [row + [0.0] * (len(gram) - len(row)) for row in rows]


def _sum(vectors: Sequence[Vector], factors: Vector) -> Vector:
    return [sum(f * v[k] for f, v in zip(factors, vectors, strict=True)) for k in range(len(vectors[0]))]


def _scaled(vector: Vector, factor: float) -> Vector:
    return [factor * x for x in vector]


def _length(vector: Vector) -> float:
    return sqrt(sum(x * x for x in vector))
