"""A method's formula over one tensor in `Bounded` numbers, and what its statistics may be over a whole scope."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tests.long.bounded import DOUBLE, SINGLE, Bounded, Precision, Truth, World
from tests.long.branchless import branchless
from tests.long.cases import Array
from tests.long.jobs import Job
from weft.algorithms.program import Rank, Statistic, Total

Figures = Mapping[str, Any]
"""Numbers by argument name: a `Figure`, or a tuple with one for each model."""


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

    @cached_property
    def last(self) -> Job:
        """The tensor that holds the last parameter: in order of name, of those that hold any."""
        return max(self.jobs, key=lambda job: job.name)


def evaluated(
    function: Callable[..., Any],
    functions: Mapping[str, Callable[..., Any]],
    scope: Scope,
    job: Job,
    figures: Figures,
    world: World,
    slot: int | None = None,
    where: Array | None = None,
) -> Bounded:
    """A scalar function over a tensor, flat.

    Args:
        function: marked with `@element`.
        functions: those that it receives.
        scope: what the tensor is a part of.
        job: the tensor.
        figures: the numbers.
        world: how to compute.
        slot: for this model alone.
        where: for these elements alone.
    """
    asked = inspect.signature(function).parameters
    given = {name: value for name, value in _arguments(scope, job, figures, world, slot, where) if name in asked}
    given |= {name: branchless(chosen) for name, chosen in functions.items() if name in asked}
    result = branchless(function)(**given)
    return result if isinstance(result, Bounded) else world.number(result)


def _arguments(
    scope: Scope, job: Job, figures: Figures, world: World, slot: int | None, where: Array | None
) -> Iterator[tuple[str, Any]]:
    def array(values: Array) -> Bounded:
        flat = values.reshape(-1)
        return world.number(flat if where is None else flat[where])

    def own(value: Any, made: Callable[[Any], Any]) -> Any:
        if not isinstance(value, tuple):
            return made(value)
        return made(value[slot]) if slot is not None else tuple(made(one) for one in value)

    index = np.arange(job.tuned[0].size)
    last = (index == job.tuned[0].size - 1) & (job is scope.last)
    yield "index", array(index)
    yield "last", Truth(last if where is None else last[where], np.zeros((), bool), world)
    if job.base is not None:
        yield "base", array(job.base)
    yield "tuned", own(job.tuned, array)
    for name, values in job.beside.items():
        # a method may call its argument otherwise than its parameter
        wanted = getattr(job.method, name)
        argument = next((a for a, source in job.program.auxiliary.items() if source is wanted), name)
        yield argument, own(values, array)
    for name, figure in figures.items():
        yield name, own(figure, lambda one: one.on(world))


def settled_figures(scope: Scope, job: Job) -> list[dict[Job, dict[str, Any]]]:
    """The numbers that the formula of `job` may ask for, for it and for every other tensor of the scope.

    A statistic runs over the scope with the functions that `job` chose and every tensor's own numbers. Where rounding
    may tip a vote, there is one answer for each outcome.
    """
    start = {member: {n: _figure(v) for n, v in member.program.values.items()} for member in scope.jobs}
    answers = [start]
    for statistic in job.program.statistics:
        answers = [extended for before in answers for extended in _with(statistic, scope, job, before)]
    return answers


def _figure(value: float | tuple[float, ...]) -> Any:
    return tuple(Figure(v) for v in value) if isinstance(value, tuple) else Figure(value)


def _with(
    statistic: Statistic, scope: Scope, job: Job, before: Mapping[Job, dict[str, Any]]
) -> Iterator[dict[Job, dict[str, Any]]]:
    slots = list(range(len(job.tuned))) if statistic.each else [None]
    found = {slot: _folded(statistic, scope, job, before, slot) for slot in slots}
    if not statistic.each and (votes := {v for figures in found[None].values() for v in _votes(figures)}):
        for vote in sorted(votes):
            yield {member: {**before[member], statistic.name: Figure(vote)} for member in scope.jobs}
        return
    yield {
        member: {
            **before[member],
            statistic.name: tuple(found[slot][member] for slot in slots) if statistic.each else found[None][member],
        }
        for member in scope.jobs
    }


def _votes(figure: Figure) -> list[float]:
    """What a sign may be, if it is not settled."""
    if not 1.0 <= figure.error <= 2.0 or figure.value not in (-1.0, 0.0, 1.0):
        return []
    return [v for v in (-1.0, 0.0, 1.0) if abs(v - figure.value) <= figure.error]


def _folded(
    statistic: Statistic, scope: Scope, job: Job, before: Mapping[Job, Figures], slot: int | None
) -> dict[Job, Figure]:
    """One statistic for one model: for each tensor its figure, since each has its own parameters."""
    precision = DOUBLE if statistic.double else scope.precision
    parts = [
        evaluated(statistic.expression, job.program.functions, scope, member, before[member], World(precision), slot)
        for member in scope.jobs
    ]
    sizes = [member.tuned[0].size for member in scope.jobs]
    values = np.concatenate([np.broadcast_to(part.value, size) for part, size in zip(parts, sizes, strict=True)])
    errors = np.concatenate([np.broadcast_to(part.error, size) for part, size in zip(parts, sizes, strict=True)])
    fold = statistic.fold

    def own(member: Job) -> list[float]:
        value = getattr(member.method, fold.by) if fold.by else ()
        return [value[slot] if isinstance(value, tuple) and slot is not None else value] if fold.by else []

    if isinstance(fold, Total):
        low, middle, high = total(values, errors)
        return {m: _between(*(_finished(fold, x, scope, own(m)) for x in (low, middle, high))) for m in scope.jobs}
    if isinstance(fold, Rank):
        return {m: ranked(values, errors, int(fold.rank(scope.count, *own(m)))) for m in scope.jobs}
    return {m: shared(values, errors, *own(m), precision) for m in scope.jobs}


def _finished(fold: Total, amount: float, scope: Scope, parameter: Sequence[float]) -> float:
    """What the method makes of a sum; the least that rounding explains may be out of its domain, but for 0."""
    try:
        return float(fold.finish(amount, scope.count, *parameter))
    except ValueError:
        return float(fold.finish(max(amount, 0.0), scope.count, *parameter))


def _between(low: float, middle: float, high: float) -> Figure:
    """What comes of a sum, which may be anything from low to high; `finish` rises or falls with the sum."""
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


def ranked(values: Array, errors: Array, rank: int) -> Figure:
    """The m-th smallest. It lies between the m-th smallest of the lower bounds and that of the upper bounds."""
    if rank < 1:
        return Figure(0.0)
    low, middle, high = (float(np.partition(x, rank - 1)[rank - 1]) for x in (values - errors, values, values + errors))
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
