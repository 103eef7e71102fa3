"""What is found about tensors: faults, and how much was compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tests.long.cases import Array

VARIANCES = ("running_var", "moving_variance")
"""What a merge may not make negative."""


@dataclass(frozen=True)
class Fault:
    """An element that is wrong.

    Attributes:
        tensor: its name.
        index: its place.
        count: how many of the tensor are.
        written: by Weft.
        expected: by the reference.
        low, high: what rounding explains.
        who: who is wrong: Weft, or the reference against the method's formula.
    """

    tensor: str
    index: tuple[int, ...]
    count: int
    written: float
    expected: float
    low: float
    high: float
    who: str

    def __str__(self) -> str:
        place = f"tensor {self.tensor!r} at {list(self.index)} ({self.count} elements in all)"
        values = f"written {self.written!r}, reference {self.expected!r}, formula {self.low!r} ... {self.high!r}"
        return f"{self.who}: {place}: {values}"


@dataclass(frozen=True)
class Verdict:
    """What was found about some tensors.

    Attributes:
        faults: at most one for each tensor.
        elements: how many were compared.
        forked: how many of them lie near a discontinuity, or in a matrix that rounding changes much.
        alone: how many the formula alone spoke for.
    """

    faults: tuple[Fault, ...]
    elements: int = 0
    forked: int = 0
    alone: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        counts = (self.elements + other.elements, self.forked + other.forked, self.alone + other.alone)
        return Verdict((*self.faults, *other.faults), *counts)


def first(
    name: str, wrong: Array, written: Array, expected: Array, low: Array, high: Array, who: str
) -> Iterator[Fault]:
    """The first element that is wrong, if one is."""
    if np.any(wrong):
        at = int(np.flatnonzero(wrong.reshape(-1))[0])
        index = tuple(int(i) for i in np.unravel_index(at, wrong.shape))
        values = [float(x.reshape(-1)[at]) for x in (written, expected, low, high)]
        yield Fault(name, index, int(np.count_nonzero(wrong)), *values, who)


def rounded(values: Array, dtype: str) -> Array:
    """Numbers of float64 in another format, rounded once, to nearest even; again as float64.

    ml_dtypes goes from float64 to bfloat16 through float32 and rounds twice; the way through float32 rounded to odd
    (the neighbour whose last bit is set, if it is not exact) rounds once.

    Example:
        >>> float(rounded(np.array([1 + 2**-8 + 2**-40]), "bfloat16")[0]) == 1 + 2**-7
        True
    """
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return np.asarray(values.astype(np.dtype(dtype)).astype(np.float64))
        near = values.astype(np.float32)
        toward = np.where(np.abs(near) > np.abs(values), np.nextafter(near, np.float32(0)), near)
        odd = (toward.view(np.uint32) | np.uint32(1)).view(np.float32)
        exact = (near == values) | ~np.isfinite(near)
        return np.asarray(np.where(exact, near, odd).astype(ml_dtypes.bfloat16).astype(np.float64))
