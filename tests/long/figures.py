"""What the statistics of a scope may be: numbers that a merge knows only up to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tests.long.bounded import DOUBLE, SINGLE, Bounded, Precision, World
from tests.long.cases import Array
from tests.long.jobs import Job

_TRIES, _MARGIN = 6, 8.0
"""How often a function without a formula is asked about numbers that are a little off, and how much farther its answer
may lie than any of these."""


@dataclass(frozen=True)
class Figure:
    """A number that a merge knows only up to rounding.

    Attributes:
        value: as exact arithmetic gives it.
        error: how far the merge's may be from it.
    """

    value: float
    error: float = 0.0

    def on(self, world: World) -> Bounded:
        """Rounded once more, to the precision in which it is used."""
        number = world.number(self.value)
        unit = world.precision.unit * self.error + (world.precision.tiny if self.error else 0.0)
        return Bounded(number.value, number.error + self.error + unit, world)


@dataclass(frozen=True, eq=False)
class Scope:
    """The tensors that share their statistics.

    Attributes:
        jobs: each tensor once; none is empty.
    """

    jobs: Sequence[Job]

    @cached_property
    def count(self) -> int:
        """Number of parameters."""
        return sum(job.tuned[0].size for job in self.jobs)

    @cached_property
    def precision(self) -> Precision:
        """That of the finest."""
        return DOUBLE if any(job.precision is DOUBLE for job in self.jobs) else SINGLE

    def is_last(self, job: Job) -> bool:
        """Whether the tensor holds the last parameter of its scope: in order of name, of those that hold any."""
        alone = job.program.is_about_the_model and not job.program.whole_model
        return alone or job is max(self.jobs, key=lambda one: one.name)


def between(low: float, middle: float, high: float) -> Figure:
    """What comes of a number, which may be anything from low to high; it rises or falls with it all the way."""
    return Figure(middle, max(abs(low - middle), abs(high - middle)) + 2.0**-50 * abs(middle))


def total(values: Array, errors: Array) -> tuple[float, float, float]:
    """The least that a merge may make of a sum, the exact sum, and the most.

    A merge adds at most 16384 / 8 + 16 numbers one after the other in float64, then the sums of blocks exactly.
    """
    middle = math.fsum(values)
    error = math.fsum(errors) if np.isfinite(errors).all() else math.inf
    exact = error == 0 and bool(np.all(values == np.round(values)))  # votes are counted, not rounded
    error += 0.0 if exact else 2100 * 2.0**-53 * (math.fsum(np.abs(values)) + error)
    return middle - error, middle, middle + error


def ranked(values: Array, errors: Array, rank: int, first: int | None = None, last: int | None = None) -> Figure:
    """The m-th smallest. It lies between the m-th smallest of the lower bounds and that of the upper bounds.

    Args:
        values: what is put in order.
        errors: how far off they may be.
        rank: m; 0 gives 0.
        first, last: the least and the largest m that the merge may take, if that is not settled.
    """
    middle = _at(values, rank)
    low = _at(values - errors, rank if first is None else first)
    high = _at(values + errors, rank if last is None else last)
    return Figure(middle, max(middle - low, high - middle))


def _at(values: Array, rank: int) -> float:
    return float(np.partition(values, rank - 1)[rank - 1]) if rank >= 1 else 0.0


def extreme(values: Array, errors: Array, which: str) -> Figure:
    """The largest or the smallest."""
    pick = np.max if which == "largest" else np.min
    low, middle, high = (float(pick(x)) for x in (values - errors, values, values + errors))
    return Figure(middle, max(middle - low, high - middle))


def shared(values: Array, errors: Array, share: float, precision: Precision) -> Figure:
    """The largest t such that the squares of all that is at least t make up a share of the sum of squares.

    Sorted from the largest, the answer is the first value at which `reached` says yes. Float64 arithmetic in the
    reference, and in the merge the 24 leading bits that it takes of a float64's square, leave that open for a while.
    """
    descending = np.sort(values)[::-1]
    least, most = (np.maximum(np.sort(x)[::-1], 0.0) for x in (values - errors, values + errors))
    doubt = len(values) * 2.0**-52 + (2.0**-21 if precision is DOUBLE else 0.0)
    first = _first_reached(most, least, share, 1 + doubt)
    certain = _first_reached(least, most, share, 1 - doubt)
    exact = _first_reached(descending, descending, share, 1.0)
    low, middle, high = least[certain], descending[exact], most[first]
    return Figure(float(middle), float(max(middle - low, high - middle, 0.0)))


def _first_reached(above: Array, below: Array, share: float, doubt: float) -> int:
    """The first place at which (1 - share) of the squares so far outweighs `share` of the rest."""
    largest = float(max(above[0], below[0])) or 1.0  # so that no square overflows, and few vanish
    squares, rest = (above / largest) ** 2, (below / largest) ** 2
    so_far = np.cumsum(squares)
    after = np.concatenate([np.cumsum(rest[::-1])[::-1][1:], [0.0]])
    reached = (so_far * doubt >= share * (so_far + after)) | (after == 0)  # nothing is left: no doubt
    return int(np.argmax(reached)) if reached.any() else len(above) - 1


def products(rows: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The inner products of some vectors, given with their errors, and how far the merge's may be from them."""
    values, errors = (np.stack(part) for part in zip(*rows, strict=True))
    sizes = np.abs(values)
    off = sizes @ errors.T
    return values @ values.T, off + off.T + errors @ errors.T + 2100 * 2.0**-53 * (sizes @ sizes.T)


def pushed(function: Callable[[Array], Array], values: Array, errors: Array) -> tuple[Array, Array]:
    """What a function makes of numbers, and how far off it may be if they are.

    There is no formula to follow: it is asked again about numbers that are off by their errors, up or down at random.
    Where it jumps, the error is as large as the jump.
    """
    middle = function(values)
    if not errors.any():
        return middle, 2.0**-48 * np.abs(middle)
    rng = np.random.default_rng(0)
    found = [function(values + errors * rng.choice([-1.0, 1.0], values.shape)) for _ in range(_TRIES)]
    with np.errstate(invalid="ignore"):
        apart = np.max([np.abs(one - middle) for one in found], axis=0)
    return middle, np.nan_to_num(_MARGIN * apart, nan=np.inf) + 2.0**-48 * np.abs(middle)
