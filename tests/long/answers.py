"""What the independent float64 references say about the tensors of a case.

A method called `m` is compared with `tests.reference.m`, which is called by the names of its arguments: `base`,
`models`, and the method's parameters. A reference knows one set of parameters for all tensors; where rules give tensors
parameters of their own, it is asked once for each set, over the whole population. TIES counts votes and measures task
vectors after trimming, so that one tensor's parameters matter to others: its reference is put together from its parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests import reference
from tests.long.cases import Array, State
from tests.long.jobs import Job

Answers = dict[Job, Array]


class NoReferenceError(Exception):
    """A method that nothing independent speaks for."""


def answers(jobs: Sequence[Job]) -> Answers:
    """The values of tensors that share their statistics.

    Raises:
        NoReferenceError: if `tests.reference` has no function of the method's name.
    """
    name = jobs[0].method.name
    function = getattr(reference, name, None)
    if function is None:
        raise NoReferenceError(f"method {name}: tests/reference.py has no function of this name")
    if name == "ties" and jobs[0].program.whole_model:
        return dict(_ties(jobs))
    return dict(_by_sets(function, jobs))


def _by_sets(function: Callable[..., State], jobs: Sequence[Job]) -> Iterator[tuple[Job, Array]]:
    sets: dict[str, list[Job]] = {}
    for job in jobs:
        sets.setdefault(repr((_numbers(job), job.absent)), []).append(job)
    for together in sets.values():
        values = function(**_arguments(function, together[0], jobs))
        yield from ((job, values[job.name]) for job in together)


def _numbers(job: Job) -> dict[str, Any]:
    return {name: getattr(job.method, name) for name in type(job.method).model_fields if name not in job.beside}


def _arguments(function: Callable[..., State], like: Job, jobs: Sequence[Job]) -> dict[str, Any]:
    """What a reference asks for, with the parameters of one tensor and the numbers of all."""
    asked = inspect.signature(function).parameters
    models = [{job.name: job.tuned[i] for job in jobs} for i in range(len(like.tuned))]
    given: dict[str, Any] = {"models": models, **_numbers(like)}
    if "weight" in given:
        given["weight"] = [0.0 if i in like.absent else w for i, w in enumerate(given["weight"])]
    for name in like.beside:
        given[name] = _beside(name, like, jobs)
    if "base" in asked:
        given["base"] = {job.name: job.base for job in jobs}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if name in asked}


def _beside(name: str, like: Job, jobs: Sequence[Job]) -> Any:
    every = {job.name: job.beside[name] for job in jobs}
    if not isinstance(like.beside[name], tuple):
        return every
    return [{tensor: values[i] for tensor, values in every.items()} for i in range(len(like.tuned))]


def _ties(jobs: Sequence[Job]) -> Iterator[tuple[Job, Array]]:
    ordered = sorted(jobs, key=lambda job: job.name)
    ends = np.cumsum([job.tuned[0].size for job in ordered])
    places = {job: slice(end - job.tuned[0].size, end) for job, end in zip(ordered, ends, strict=True)}
    kept: dict[str, Array] = {}
    for job in ordered:
        method: Any = job.method
        if method.trim not in kept:
            kept[method.trim] = _trimmed(ordered, places, method.trim)
        yield job, _combined(job, kept[method.trim], places[job])


def _trimmed(jobs: Sequence[Job], places: Mapping[Job, slice], trim: str) -> Array:
    """Every task vector, trimmed one way, each tensor by its own numbers, times its own weight."""
    models = len(jobs[0].tuned)
    taus = [np.concatenate([(job.tuned[i] - job.base).reshape(-1) for job in jobs]) for i in range(models)]
    rows = np.zeros((models, len(taus[0])))
    for i, tau in enumerate(taus):
        known: dict[tuple[float, float], Array] = {}
        for job in jobs:
            method: Any = job.method
            numbers = method.density[i], method.deviations[i]
            if numbers not in known:
                known[numbers] = reference.trim_vector(tau, trim, *numbers)
            rows[i, places[job]] = _weight(job)[i] * known[numbers][places[job]]
    return rows


def _weight(job: Job) -> list[float]:
    method: Any = job.method
    return [0.0 if i in job.absent else w for i, w in enumerate(method.weight)]


def _combined(job: Job, rows: Array, place: slice) -> Array:
    method: Any = job.method
    if "elect" in job.beside:
        signs = job.beside["elect"]
        assert isinstance(signs, np.ndarray)
        sign: Array | None = signs.reshape(-1)
    else:
        elected = reference.elect_signs(rows, method.elect)
        sign = elected[place] if elected is not None else None
    change = reference.combine_rows(rows[:, place], _weight(job), sign, method.combine)
    assert job.base is not None
    return (job.base.reshape(-1) + method.scale * change).reshape(job.shape)
