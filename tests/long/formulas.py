"""A method's formula over one tensor in `Bounded` numbers, and what its statistics may be over a whole scope.

What happens before a method (a `Change`) has names of its own, which begin with `BEFORE` here as in the merge. It sees
one model at a time; what it makes of the models' task vectors is what the method's own functions see.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from tests.long.bounded import DOUBLE, Bounded, Precision, Truth, World
from tests.long.branchless import branchless
from tests.long.cases import Array
from tests.long.figures import Figure, Scope, between, extreme, products, pushed, ranked, shared, total
from tests.long.jobs import Job
from tests.references.draws import draws
from weft.algorithms.program import BEFORE, Derived, Extreme, Gram, Numbers, Rank, Share, Stage, Statistic, Total

Figures = Mapping[str, Any]
"""Numbers by argument name: a `Figure`, or a tuple with one for each model."""
Every = dict[Job, dict[str, Any]]
Functions = Mapping[str, Callable[..., Any]]

draws_of = lru_cache(maxsize=64)(draws)


@dataclass(frozen=True, eq=False)
class Sight:
    """What a scalar function sees.

    Attributes:
        scope: what the tensor is a part of.
        job: the tensor.
        figures: the numbers.
        world: how to compute.
        functions: the method's own functions that it receives.
        slot: the model that is seen alone.
        own: the position of the model that it is about, if all are seen.
        where: these elements alone.
    """

    scope: Scope
    job: Job
    figures: Figures
    world: World
    functions: Functions
    slot: int | None = None
    own: float | None = None
    where: Array | None = None


def mapped(sight: Sight) -> Bounded:
    """What becomes of the tensor, flat."""
    program = sight.job.program
    result = evaluated(program.element, sight)
    return _array(sight, sight.job.base) + result if _is_alone(sight) else result


def evaluated(function: Callable[..., Any], sight: Sight, prefix: str = "") -> Bounded:
    """A scalar function over a tensor, flat.

    Args:
        function: marked with `@element`.
        sight: what it sees.
        prefix: whose function it is: `BEFORE`, or empty for the method's own.
    """
    asked = inspect.signature(function).parameters
    result = branchless(function)(**{name: _argument(name, sight, prefix) for name in asked})
    return result if isinstance(result, Bounded) else sight.world.number(result)


def changes(sight: Sight) -> list[Bounded]:
    """Every model's task vector after what happens to it before."""
    change = sight.job.program.change
    if change is None:
        base = _array(sight, sight.job.base)
        return [_array(sight, one) - base for one in sight.job.tuned]
    return [evaluated(change.element, replace(sight, slot=i), BEFORE) for i in range(len(sight.job.tuned))]


def _is_alone(sight: Sight) -> bool:
    """Whether changed task vectors are handed on as they are, and the base is added at the end."""
    return sight.job.program.relative and sight.job.program.change is not None


def _array(sight: Sight, values: Array | None) -> Bounded:
    assert values is not None
    flat = values.reshape(-1)
    return sight.world.number(flat if sight.where is None else flat[sight.where])


def _argument(name: str, sight: Sight, prefix: str) -> Any:
    job, program = sight.job, sight.job.program
    functions = program.change.functions if prefix and program.change else sight.functions
    if name in functions:
        return branchless(functions[name])
    if name == "own":
        return sight.own
    if name == "base":
        apart = not prefix and _is_alone(sight)
        return _array(sight, np.zeros_like(job.tuned[0]) if apart else job.base)
    if name == "tuned":
        return _tuned(sight, prefix)
    if name in _PLACES:
        return _PLACES[name](sight)
    if prefix + name in job.beside:
        return _own(job.beside[prefix + name], sight, lambda values: _array(sight, values))
    known = sight.figures.get(prefix + name, sight.figures.get(name))
    return _own(known, sight, lambda figure: figure.on(sight.world))


def _own(value: Any, sight: Sight, made: Callable[[Any], Any]) -> Any:
    if not isinstance(value, tuple):
        return made(value)
    return made(value[sight.slot]) if sight.slot is not None else tuple(made(one) for one in value)


def _tuned(sight: Sight, prefix: str) -> Any:
    job = sight.job
    if prefix or job.program.change is None:
        return _own(job.tuned, sight, lambda values: _array(sight, values))
    found = changes(sight) if sight.slot is None else [_changed(sight)]
    if not job.program.relative:
        found = [_array(sight, job.base) + one for one in found]
    return found[0] if sight.slot is not None else tuple(found)


def _changed(sight: Sight) -> Bounded:
    assert sight.job.program.change is not None
    return evaluated(sight.job.program.change.element, sight, BEFORE)


def _index(sight: Sight) -> Bounded:
    return _array(sight, np.arange(sight.job.tuned[0].size))


def _last(sight: Sight) -> Truth:
    last = np.zeros(sight.job.tuned[0].size, bool)
    last[-1:] = sight.scope.is_last(sight.job)
    return Truth(last if sight.where is None else last[sight.where], np.zeros((), bool), sight.world)


def _draw(sight: Sight) -> Bounded:
    job = sight.job
    assert job.program.change is not None
    assert sight.slot is not None
    return _array(sight, draws_of(job.program.change.seed, sight.slot, job.name, job.shape))


def _rank(sight: Sight) -> Bounded:
    assert sight.slot is not None
    low, exact, high = places(sight.job, sight.slot, sight.world.precision)
    where = slice(None) if sight.where is None else sight.where
    return Bounded(exact[where], np.maximum(exact - low, high - exact)[where], sight.world)


_PLACES: Mapping[str, Callable[[Sight], Any]] = {"index": _index, "last": _last, "draw": _draw, "rank": _rank}


@lru_cache(maxsize=64)
def places(job: Job, slot: int, precision: Precision) -> tuple[Array, Array, Array]:
    """The least place in its row that a parameter may have, its place in exact arithmetic, and the largest."""
    assert job.program.change is not None
    assert job.program.change.ranking is not None
    bare = Sight(Scope([job]), job, {}, World(precision), {}, slot)
    size = evaluated(job.program.change.ranking, bare, BEFORE)
    rows = zip(
        *(np.broadcast_to(x, job.tuned[0].size).reshape(-1, job.width) for x in (size.value, size.error)), strict=True
    )
    found = [_places_of(values, errors) for values, errors in rows]
    low, exact, high = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return low, exact, high


def _places_of(values: Array, errors: Array) -> tuple[Array, Array, Array]:
    exact = np.empty(len(values))
    exact[np.argsort(values, kind="stable")] = np.arange(len(values))
    if not errors.any():
        return exact, exact, exact
    below = np.searchsorted(np.sort(values + errors), values - errors, "left")
    above = np.searchsorted(np.sort(values - errors), values + errors, "right") - 1
    return np.minimum(below, exact), exact, np.maximum(above, exact)


def settled_figures(scope: Scope, job: Job) -> list[Every]:
    """The numbers that the formula of `job` may ask for, for it and for every other tensor of the scope.

    A statistic runs over the scope with the functions that `job` chose and every tensor's own numbers. Where rounding
    may tip a vote, there is one answer for each outcome.
    """
    answers = [_of_changes(scope)]
    for stage in job.program.stages:
        if not stage.prefix:
            answers = [extended for before in answers for extended in _with(stage, scope, job, before)]
    return answers


def _of_changes(scope: Scope) -> Every:
    """What each tensor's change asks for, which is about those tensors alone that ask for it."""
    numbers = {m: {**m.program.numbers, "length": float(m.width)} for m in scope.jobs}
    begin: Every = {m: {name: _figure(v) for name, v in own.items()} for m, own in numbers.items()}
    result: Every = {}
    for member in scope.jobs:
        known = begin
        for stage in (stage for stage in member.program.stages if stage.prefix):
            asking = Scope([m for m in scope.jobs if stage in m.program.stages])
            known = {**known, **next(_with(stage, asking, member, known))}
        result[member] = known[member]
    return result


def _figure(value: float | tuple[float, ...]) -> Any:
    return tuple(Figure(v) for v in value) if isinstance(value, tuple) else Figure(value)


def _with(stage: Stage, scope: Scope, job: Job, before: Every) -> Iterator[Every]:
    """The numbers, and those that a stage adds: one answer, or one for each outcome of a vote."""
    if stage.by_tensor and len(scope.jobs) > 1:
        yield {m: found for one in scope.jobs for m, found in next(_with(stage, Scope([one]), one, before)).items()}
        return
    name = stage.statistic.name
    if isinstance(stage.statistic, Derived):
        yield {m: {**before[m], name: found} for m, found in derived(stage, scope, before).items()}
        return
    found = folded(stage, stage.statistic, scope, job, before)
    votes = sorted({v for figure in found.values() for v in _votes(figure)})
    for outcome in [dict.fromkeys(scope.jobs, Figure(vote)) for vote in votes] or [found]:
        yield {m: {**before[m], name: outcome[m]} for m in scope.jobs}


def _votes(figure: Any) -> list[float]:
    """What a sign may be, if it is not settled."""
    if isinstance(figure, tuple) or not 1.0 <= figure.error <= 2.0 or figure.value not in (-1.0, 0.0, 1.0):
        return []
    return [v for v in (-1.0, 0.0, 1.0) if abs(v - figure.value) <= figure.error]


def folded(stage: Stage, statistic: Statistic, scope: Scope, job: Job, before: Every) -> dict[Job, Any]:
    """One statistic: for each tensor its figure, or one for each model, since each has its own parameters."""
    models = range(len(job.tuned))
    if isinstance(statistic.fold, Gram):
        rows = [_values(stage, statistic, scope, job, before, slot) for slot in models]
        return {m: _of_products(statistic.fold, rows, before[m]) for m in scope.jobs}
    if not statistic.each:
        return _folded(stage, statistic, scope, job, before, None)
    each = [_folded(stage, statistic, scope, job, before, slot) for slot in models]
    return {m: tuple(found[m] for found in each) for m in scope.jobs}


def _values(
    stage: Stage, statistic: Statistic, scope: Scope, job: Job, before: Every, slot: int | None
) -> tuple[Array, Array]:
    """What is folded, over the whole scope, and how far off it may be."""
    world = World(DOUBLE if statistic.double else scope.precision)
    alone, own = (None, float(slot)) if statistic.among and slot is not None else (slot, None)
    values, errors = [], []
    for member in scope.jobs:
        sight = Sight(scope, member, before[member], world, job.program.functions, alone, own)
        found = evaluated(statistic.expression, sight, stage.prefix)
        values.append(np.broadcast_to(found.value, member.tuned[0].size))
        errors.append(np.broadcast_to(found.error, member.tuned[0].size))
    return np.concatenate(values), np.concatenate(errors)


def _folded(
    stage: Stage, statistic: Statistic, scope: Scope, job: Job, before: Every, slot: int | None
) -> dict[Job, Figure]:
    values, errors = _values(stage, statistic, scope, job, before, slot)
    fold = statistic.fold

    def by(member: Job) -> Figure:
        known = before[member][stage.prefix + getattr(fold, "by", "")]
        return known[slot] if isinstance(known, tuple) and slot is not None else known

    if isinstance(fold, Total):
        low, middle, high = total(values, errors)
        given = {m: [by(m).value] if fold.by else [] for m in scope.jobs}
        return {m: between(*(_finished(fold, x, scope, given[m]) for x in (low, middle, high))) for m in scope.jobs}
    if isinstance(fold, Rank):
        return {m: ranked(values, errors, *_ranks(fold, scope, by(m))) for m in scope.jobs}
    if isinstance(fold, Extreme):
        return dict.fromkeys(scope.jobs, extreme(values, errors, fold.which))
    assert isinstance(fold, Share)
    precision = DOUBLE if statistic.double else scope.precision
    return {m: shared(values, errors, by(m).value, precision) for m in scope.jobs}


def _ranks(fold: Rank, scope: Scope, by: Figure) -> tuple[int, int, int]:
    """The rank that is asked for, and from where to where it may be if what decides it is not settled."""
    known = (by.value, by.value - by.error, by.value + by.error)
    ranks = [int(fold.rank(scope.count, x)) if math.isfinite(x) else scope.count for x in known]
    exact, *ends = (min(max(rank, 0), scope.count) for rank in ranks)
    return exact, min(exact, *ends), max(exact, *ends)


def _finished(fold: Total, amount: float, scope: Scope, parameter: Sequence[float]) -> float:
    """What the method makes of a sum; the least that rounding explains may be out of its domain, but for 0."""
    try:
        return float(fold.finish(amount, scope.count, *parameter))
    except ValueError:
        return float(fold.finish(max(amount, 0.0), scope.count, *parameter))


def _of_products(fold: Gram, rows: Sequence[tuple[Array, Array]], numbers: Figures) -> tuple[Figure, ...]:
    """One number for each model, which follows from the inner products."""
    exact, errors = products(rows)
    upper = np.triu_indices(len(rows))
    known = {name: _plain(value) for name, value in numbers.items()}

    def finish(entries: Array) -> Array:
        gram = np.zeros(exact.shape)
        gram[upper] = entries
        gram.T[upper] = entries
        np.fill_diagonal(gram, np.maximum(gram.diagonal(), 0.0))
        return np.array(fold.finish(gram.tolist(), known), np.float64)

    return tuple(map(Figure, *(part.tolist() for part in pushed(finish, exact[upper], errors[upper]))))


def _plain(value: Any) -> Any:
    return tuple(one.value for one in value) if isinstance(value, tuple) else value.value


def derived(stage: Stage, scope: Scope, before: Every) -> dict[Job, Any]:
    """What follows from the numbers of all tensors."""
    assert isinstance(stage.statistic, Derived)
    compute = stage.statistic.compute
    members = sorted(scope.jobs, key=lambda member: member.name)
    names = [(m, name) for m in members for name in before[m] if name.startswith(stage.prefix)]
    lists = [_listed(before[m][name]) for m, name in names]
    ends = np.cumsum([0, *map(len, lists)])
    flat = [figure for figures in lists for figure in figures]
    is_single: list[bool] = []

    def answered(values: Array) -> Array:
        told: dict[Job, dict[str, Any]] = {m: {} for m in members}
        for k, (m, name) in enumerate(names):
            own = tuple(values[ends[k] : ends[k + 1]].tolist())
            told[m][name.removeprefix(stage.prefix)] = own if isinstance(before[m][name], tuple) else own[0]
        found = compute([Numbers(m.name, m.shape, told[m]) for m in members])
        is_single[:] = [not isinstance(one, tuple) for one in found]
        return np.array([one if isinstance(one, tuple) else (one,) for one in found], np.float64)

    values, errors = pushed(answered, np.array([f.value for f in flat]), np.array([f.error for f in flat]))
    figures = [tuple(map(Figure, v, e)) for v, e in zip(values.tolist(), errors.tolist(), strict=True)]
    return {m: f[0] if s else f for m, f, s in zip(members, figures, is_single, strict=True)}


def _listed(value: Any) -> tuple[Figure, ...]:
    return value if isinstance(value, tuple) else (value,)
