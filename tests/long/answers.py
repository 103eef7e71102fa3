"""What the independent float64 references say about the tensors of a case.

A method called `m` is compared with `tests.references.catalogue.REFERENCES[m]`, which is called by the names of its
arguments: `base`, `models`, and the method's parameters. Task vectors that something changes before are changed by
`tests.references.sparsifiers`. A reference knows one set of parameters for all tensors; where rules give tensors
parameters of their own, it is asked once for each set, over the whole population. TIES counts votes and measures task
vectors after trimming, so that one tensor's parameters matter to others: its reference is put together from its parts.
Other methods that look at whole models, and whose tensors have different parameters, have no answer: they are judged by
their formula alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests import reference
from tests.long.cases import Array, State
from tests.long.jobs import Job
from tests.references.catalogue import REFERENCES
from tests.references.draws import draws
from tests.references.sparsifiers import SPARSIFIERS, apl
from weft.algorithms.program import BEFORE
from weft.algorithms.sparsifier import Sparsifier

Answers = dict[Job, Array | None]

_BY_SETS = ("linear", "fisher")
"""Methods of which tensors with other parameters change no statistic of a tensor."""
_OUTSIDE = ("weight", "scale", "elect", "combine")
"""Parameters that no statistic depends on; TIES, of which that is not so, is apart."""


class NoReferenceError(Exception):
    """A method that nothing independent speaks for."""


def answers(jobs: Sequence[Job]) -> Answers:
    """The values of tensors that share their statistics, flat or not; None where there is no answer.

    Raises:
        NoReferenceError: if there is no function for the method, or for what happens before it.
    """
    name = jobs[0].method.name
    if name not in REFERENCES:
        raise NoReferenceError(f"method {name}: tests/references/catalogue.py has no function for it")
    seen = changed(jobs)
    if seen is None or (name != "ties" and not _is_told(name, jobs)):
        return dict.fromkeys(jobs)
    found = dict(_ties(seen)) if name == "ties" and jobs[0].program.whole_model else dict(_by_sets(name, seen))
    return {job: _added(job, found[own]) for job, own in zip(jobs, seen, strict=True)}


def _added(job: Job, answer: Array) -> Array:
    if job.program.change is None or not job.program.relative:
        return answer
    assert job.base is not None
    return job.base.reshape(answer.shape) + answer


def _is_told(name: str, jobs: Sequence[Job]) -> bool:
    """Whether a reference that is asked about all tensors with one set of parameters gives the right answer."""
    return name in _BY_SETS or not jobs[0].program.whole_model or len({_inside(job) for job in jobs}) == 1


def _inside(job: Job) -> str:
    return repr({name: value for name, value in _numbers(job).items() if name not in _OUTSIDE})


def changed(jobs: Sequence[Job]) -> list[Job] | None:
    """The tensors as the method sees them; None if the reference of what happens before cannot tell.

    Where only differences to the base matter, these take the place of the models, and zeros that of the base.
    """
    if jobs[0].program.change is None:
        return list(jobs)
    every = _changes(jobs)
    return every and [_with(job, [changes[job.name] for changes in every]) for job in jobs]


def _with(job: Job, changes: Sequence[Array]) -> Job:
    assert job.base is not None
    if job.program.relative:
        return replace(job, base=np.zeros(job.shape), tuned=tuple(changes))
    return replace(job, tuned=tuple(job.base + change for change in changes))


def _changes(jobs: Sequence[Job]) -> list[State] | None:
    """Every model's task vector after what happens to it before."""
    steps = [step_of(job) for job in jobs]
    together = jobs[0].program.change is not None and jobs[0].program.change.whole_model
    if together and len({repr(_settings(step)) for step in steps}) > 1:
        return None
    if together:
        return _sparse(jobs, steps[0])
    alone = [_sparse([job], step) for job, step in zip(jobs, steps, strict=True)]
    return [{n: t for part in alone for n, t in part[i].items()} for i in range(len(jobs[0].tuned))]


def step_of(job: Job) -> Sparsifier:
    """What changes the task vectors: the step before the method, or the method itself."""
    step = job.before or job.method
    assert isinstance(step, Sparsifier)
    return step


def _settings(step: Sparsifier) -> dict[str, Any]:
    """The parameters that have a say where the task vectors are changed, tensors apart."""
    known = {name: getattr(step, name) for name in step.chained_fields()}
    return {n: v for n, v in known.items() if not isinstance(v, tuple) or not any(isinstance(x, dict) for x in v)}


def _sparse(jobs: Sequence[Job], step: Sparsifier) -> list[State]:
    models = range(len(jobs[0].tuned))
    taus = [{job.name: job.tuned[i] - job.base for job in jobs} for i in models]
    given = [_given(jobs, step, i) for i in models]
    if step.name == "apl":
        common = {n: v for n, v in _settings(step).items() if n not in ("seed", "gradient", "importance")}
        each = {n: [own[n] for own in given] for n in given[0]}
        every = {n: list(v) if isinstance(v, tuple) else v for n, v in common.items()}
        del each["masked"]
        return apl(taus, **every, **each)
    if step.name not in SPARSIFIERS:
        raise NoReferenceError(f"sparsifier {step.name}: tests/references/sparsifiers.py has no function for it")
    function = SPARSIFIERS[step.name]
    settings = {n: [v[i] if isinstance(v, tuple) else v for i in models] for n, v in _settings(step).items()}
    return [_called(function, tau=taus[i], **given[i], **{n: v[i] for n, v in settings.items()}) for i in models]


def _called(function: Callable[..., State], **given: Any) -> State:
    asked = inspect.signature(function).parameters
    return function(**{name: value for name, value in given.items() if name in asked})


def _given(jobs: Sequence[Job], step: Sparsifier, model: int) -> dict[str, Any]:
    """The draws, and the tensors that a model is given."""
    seed = getattr(step, "seed", 0)
    found: dict[str, Any] = {"draws": {job.name: draws(seed, model, job.name, job.shape) for job in jobs}}
    sources = [name.removeprefix(BEFORE) for name in jobs[0].program.sources if name.startswith(BEFORE)]
    for name in sources:
        if getattr(step, name)[model] is not None:
            found[name] = {job.name: job.beside[BEFORE + name][model] for job in jobs}  # type: ignore[index]
    return found | {"masked": "mask" in sources}


def _by_sets(name: str, jobs: Sequence[Job]) -> Iterator[tuple[Job, Array]]:
    sets: dict[str, list[Job]] = {}
    for job in jobs:
        sets.setdefault(repr((_numbers(job), job.absent)), []).append(job)
    function = REFERENCES[name]
    for together in sets.values():
        values = function(**_arguments(function, together[0], jobs))
        yield from ((job, values[job.name]) for job in together)


def _numbers(job: Job) -> dict[str, Any]:
    known = {name: getattr(job.method, name) for name in type(job.method).model_fields if name not in job.beside}
    return {n: v for n, v in known.items() if not isinstance(v, dict) and not _holds_tensors(v)}


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(one, dict) for one in value)


def _arguments(function: Callable[..., State], like: Job, jobs: Sequence[Job]) -> dict[str, Any]:
    """What a reference asks for, with the parameters of one tensor and the numbers of all."""
    asked = inspect.signature(function).parameters
    models = [{job.name: job.tuned[i] for job in jobs} for i in range(len(like.tuned))]
    given: dict[str, Any] = {"models": models, **_numbers(like)}
    if "weight" in given:
        given["weight"] = [0.0 if i in like.absent else w for i, w in enumerate(given["weight"])]
    for name in like.beside:
        given[name] = _beside(name, like, jobs)
    if "signs" in given:
        given["elect"] = given["signs"]
    if "base" in asked and like.base is not None:
        given["base"] = {job.name: job.base for job in jobs}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if name in asked}


def _beside(name: str, like: Job, jobs: Sequence[Job]) -> Any:
    every = {job.name: job.beside[name] for job in jobs if name in job.beside}
    if not isinstance(like.beside[name], tuple):
        return every
    return [{tensor: values[i] for tensor, values in every.items() if values} for i in range(len(like.tuned))]


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
    if "signs" in job.beside:
        signs = job.beside["signs"]
        assert isinstance(signs, np.ndarray)
        sign: Array | None = signs.reshape(-1)
    else:
        elected = reference.elect_signs(rows, method.elect)
        sign = elected[place] if elected is not None else None
    change = reference.combine_rows(rows[:, place], _weight(job), sign, method.combine)
    assert job.base is not None
    return (job.base.reshape(-1) + method.scale * change).reshape(job.shape)
