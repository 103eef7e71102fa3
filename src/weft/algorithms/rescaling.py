"""How sparsifiers make up for what they drop."""

from __future__ import annotations

from collections.abc import Sequence

from weft.algorithms.program import Derived, Number, Numbers, Statistic, Total
from weft.kernels.element import Scalar, element

_LEAST = 1e-7
"""The sum of magnitudes from which on a task vector can be rescaled."""


@element
def magnitude(base: float, tuned: float) -> float:
    """The length of one model's change."""
    return abs(tuned - base)


def keeping_l1(kept: Scalar) -> tuple[Statistic | Derived, ...]:
    """The number `factor` of each tensor and model that gives what is kept the sum of magnitudes of the whole.

    It is 1 where one of the two sums is below 1e-7, as mergekit has it.

    Args:
        kept: from what the change of a model asks for to the magnitude that it keeps, before it is rescaled.
    """
    return (
        Statistic("whole", magnitude, Total(_sum), each=True),
        Statistic("kept", kept, Total(_sum), each=True),
        Derived("factor", _factors),
    )


def _sum(total: float, count: int) -> float:
    return total


def _factors(tensors: Sequence[Numbers]) -> list[Number]:
    return [tuple(map(_factor, tensor.each("whole"), tensor.each("kept"))) for tensor in tensors]


def _factor(whole: float, kept: float) -> float:
    return whole / kept if min(whole, kept) >= _LEAST else 1.0
