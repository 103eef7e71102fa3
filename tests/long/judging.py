"""Is an output right? Every element, within what rounding explains, and nothing more.

For every element three numbers are compared: what Weft wrote, what the float64 reference says, and what the method's
formula gives in exact arithmetic, with a rigorous bound on what the precision of the merge may make of it
(`tests.long.bounded`). Weft is right if rounding some number within the bound to the output's format gives what it
wrote; rounding is monotone, so this is a comparison with the rounded ends. The reference is right if it lies within
the bound (its own arithmetic is float64).

Near a discontinuity (a change about as large as the threshold, votes that nearly cancel) the bound cannot tell which
way the merge went. There the formula is followed along every path that rounding leaves open, and each of the two, Weft
and the reference, must have taken one of them: either answer is right, but nothing in between.

What a method makes of a whole matrix has no formula to follow; `tests.long.matrices` judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tests.long.answers import answers
from tests.long.bounded import DOUBLE, Bounded, World
from tests.long.cases import Array
from tests.long.figures import Scope
from tests.long.formulas import Figures, Sight, mapped, settled_figures
from tests.long.jobs import Copy, Job
from tests.long.matrices import is_whole, judged_whole
from tests.long.verdicts import VARIANCES, Verdict, first, rounded

_PATHS = 1 << 12
"""How many paths are followed; an element with more open comparisons is judged by the whole bound."""


def judged_copy(item: Copy, name: str, written: Array) -> Verdict:
    """A tensor that is one input's: the same numbers, rounded once if the format differs."""
    expected = item.values
    if item.values.dtype == np.float64 and item.dtype != "float64":
        expected = rounded(item.values, item.dtype)
    wrong = written.astype(expected.dtype) != expected
    ends = np.broadcast_to(item.values, wrong.shape)
    return Verdict(tuple(first(name, wrong, written, item.values, ends, ends, "Weft")), written.size)


def judged(scope: Scope, written: dict[Job, Array]) -> Verdict:
    """All tensors that share their statistics."""
    by_element = [job for job in scope.jobs if not is_whole(job)]
    expected = answers(scope.jobs) if by_element else {}
    verdict = Verdict(())

    def found_of(job: Job, figures: Figures) -> Verdict:
        if is_whole(job):
            return judged_whole(scope, job, figures, written[job])
        return _judged(scope, job, figures, written[job], expected[job])

    for together in _alike(scope):
        tries = [
            sum((found_of(job, figures[job]) for job in together), Verdict(()))
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


def _judged(scope: Scope, job: Job, figures: Figures, written: Array, expected: Array | None) -> Verdict:
    result = _formula(scope, job, figures, World(scope.precision))
    wrote = written.astype(np.float64).reshape(-1)
    low, high = _ends(job, result, wrote.shape)
    told = expected is not None
    expected = np.broadcast_to(result.value, wrote.shape) if expected is None else expected
    said = np.maximum(expected.reshape(-1), 0.0) if job.name.endswith(VARIANCES) else expected.reshape(-1)
    forked = np.broadcast_to(result.forked, wrote.shape)
    wrong = ~_rounds_to(wrote, low, high, job, scope)
    apart = ~_is_said(said, low, high, scope)
    if forked.any():
        right, spoken = _along_all_paths(scope, job, figures, wrote, said, np.flatnonzero(forked))
        wrong[forked], apart[forked] = ~right, ~spoken
    faults = [
        *first(job.name, wrong.reshape(job.shape), written, expected, low, high, "Weft"),
        *first(job.name, apart.reshape(job.shape), written, expected, low, high, "reference against formula"),
    ]
    return Verdict(tuple(faults[:1]), wrote.size, int(forked.sum()), alone=0 if told else wrote.size)


def _formula(scope: Scope, job: Job, figures: Figures, world: World, where: Array | None = None) -> Bounded:
    return mapped(Sight(scope, job, figures, world, job.program.functions, where=where))


def _ends(job: Job, result: Bounded, shape: tuple[int, ...]) -> tuple[Array, Array]:
    low = np.broadcast_to(result.value - result.error, shape)
    high = np.broadcast_to(result.value + result.error, shape)
    if job.name.endswith(VARIANCES):
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


def scopes(jobs: Sequence[Job]) -> list[Scope]:
    """Tensors that share their statistics: all of one method, and what comes before it, that looks at whole models;
    else each alone.
    """
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        if job.tuned[0].size:
            together = job.program.is_about_the_model
            groups.setdefault((type(job.before), type(job.method)) if together else job, []).append(job)
    return [Scope(members) for members in groups.values()]
