"""Is an output right? Every element, within what rounding explains, and nothing more.

For every element three numbers are compared: what Weft wrote, what the float64 reference says, and what the method's
formula gives in exact arithmetic, with a rigorous bound on what the precision of the merge may make of it
(`tests.long.bounded`). Weft is right if rounding some number within the bound to the output's format gives what it
wrote; rounding is monotone, so this is a comparison with the rounded ends. The reference is right if it lies within
the bound (its own arithmetic is float64).

Near a discontinuity (a change about as large as the threshold, votes that nearly cancel) the bound cannot tell which
way the merge went. There the formula is followed along every path that rounding leaves open, and each of the two, Weft
and the reference, must have taken one of them: either answer is right, but nothing in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tests.long.answers import answers
from tests.long.bounded import DOUBLE, Bounded, World
from tests.long.cases import Array
from tests.long.formulas import Figures, Scope, evaluated, settled_figures
from tests.long.jobs import Copy, Job

_PATHS = 1 << 12
"""How many paths are followed; an element with more open comparisons is judged by the whole bound."""

_VARIANCES = ("running_var", "moving_variance")
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
        forked: how many of them lie near a discontinuity.
    """

    faults: tuple[Fault, ...]
    elements: int = 0
    forked: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict((*self.faults, *other.faults), self.elements + other.elements, self.forked + other.forked)


def judged_copy(item: Copy, name: str, written: Array) -> Verdict:
    """A tensor that is one input's: the same numbers, rounded once if the format differs."""
    expected = item.values
    if item.values.dtype == np.float64 and item.dtype != "float64":
        expected = rounded(item.values, item.dtype)
    wrong = written.astype(expected.dtype) != expected
    ends = np.broadcast_to(item.values, wrong.shape)
    return Verdict(tuple(_first(name, wrong, written, item.values, ends, ends, "Weft")), written.size)


def judged(scope: Scope, written: dict[Job, Array]) -> Verdict:
    """All tensors that share their statistics."""
    expected = answers(scope.jobs)
    verdict = Verdict(())
    for together in _alike(scope):
        tries = [
            sum((_judged(scope, job, figures[job], written[job], expected[job]) for job in together), Verdict(()))
            for figures in settled_figures(scope, together[0])
        ]
        verdict += next((found for found in tries if not found.faults), tries[0])
    return verdict


def _alike(scope: Scope) -> Iterator[list[Job]]:
    """Tensors that ask for the same statistics."""
    groups: dict[object, list[Job]] = {}
    for job in scope.jobs:
        key = (job.program.statistics, tuple(job.program.functions.items()), job.program.element)
        groups.setdefault(key, []).append(job)
    yield from groups.values()


def _judged(scope: Scope, job: Job, figures: Figures, written: Array, expected: Array) -> Verdict:
    result = _formula(scope, job, figures, World(scope.precision))
    wrote, said = written.astype(np.float64).reshape(-1), expected.reshape(-1)
    said = np.maximum(said, 0.0) if job.name.endswith(_VARIANCES) else said
    forked = np.broadcast_to(result.forked, wrote.shape)
    low, high = _ends(job, result, wrote.shape)
    wrong = ~_rounds_to(wrote, low, high, job, scope)
    apart = ~_is_said(said, low, high, scope)
    if forked.any():
        right, spoken = _along_all_paths(scope, job, figures, wrote, said, np.flatnonzero(forked))
        wrong[forked], apart[forked] = ~right, ~spoken
    faults = [
        *_first(job.name, wrong.reshape(job.shape), written, expected, low, high, "Weft"),
        *_first(job.name, apart.reshape(job.shape), written, expected, low, high, "reference against formula"),
    ]
    return Verdict(tuple(faults[:1]), wrote.size, int(forked.sum()))


def _formula(scope: Scope, job: Job, figures: Figures, world: World, where: Array | None = None) -> Bounded:
    program = job.program
    return evaluated(program.element, program.functions, scope, job, figures, world, where=where)


def _ends(job: Job, result: Bounded, shape: tuple[int, ...]) -> tuple[Array, Array]:
    low = np.broadcast_to(result.value - result.error, shape)
    high = np.broadcast_to(result.value + result.error, shape)
    if job.name.endswith(_VARIANCES):
        return np.maximum(low, 0.0), np.maximum(high, 0.0)
    return low, high


def _rounds_to(wrote: Array, low: Array, high: Array, job: Job, scope: Scope) -> Array:
    """Whether what was written is some number between low and high, as the merge computes it, in the output's format.

    NaN never is.
    """
    least, most = low, high
    if scope.precision is not DOUBLE:  # what is rounded is a float32; the nearest to either end is no farther inside
        with np.errstate(over="ignore"):
            least, most = low.astype(np.float32).astype(np.float64), high.astype(np.float32).astype(np.float64)
    return (rounded(least, job.dtype) <= wrote) & (wrote <= rounded(most, job.dtype))


def _is_said(said: Array, low: Array, high: Array, scope: Scope) -> Array:
    """Whether the reference lies within the bound. Of a float64 merge the bound is that of its own rounding, and the
    reference may sum in another order: eight times as far.
    """
    slack = 8 * (high - low) if scope.precision is DOUBLE else np.zeros_like(low)
    with np.errstate(invalid="ignore"):
        return (low - slack <= said) & (said <= high + slack) | np.isinf(slack)


def _along_all_paths(
    scope: Scope, job: Job, figures: Figures, wrote: Array, said: Array, where: Array
) -> tuple[Array, Array]:
    """For the elements `where`: whether what was written, and what the reference says, lies on one of the paths."""
    right, spoken = np.zeros(len(where), bool), np.zeros(len(where), bool)
    path, most = 0, 0
    while path < min(1 << most, _PATHS) or path == 0:
        world = World(scope.precision, path)
        low, high = _ends(job, _formula(scope, job, figures, world, where), wrote[where].shape)
        right |= _rounds_to(wrote[where], low, high, job, scope)
        spoken |= _is_said(said[where], low, high, scope)
        most = max(most, int(np.max(world.spent, initial=0)))
        path += 1
        if right.all() and spoken.all():
            break
    if path >= _PATHS:
        low, high = _ends(job, _formula(scope, job, figures, World(scope.precision), where), wrote[where].shape)
        right |= _rounds_to(wrote[where], low, high, job, scope)
        spoken |= _is_said(said[where], low, high, scope)
    return right, spoken


def _first(
    name: str, wrong: Array, written: Array, expected: Array, low: Array, high: Array, who: str
) -> Iterator[Fault]:
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


def scopes(jobs: Sequence[Job]) -> list[Scope]:
    """Tensors that share their statistics: all of one method that looks at whole models; else each alone."""
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        if job.tuned[0].size:
            groups.setdefault(job.method.name if job.program.whole_model else job, []).append(job)
    return [Scope(members) for members in groups.values()]
