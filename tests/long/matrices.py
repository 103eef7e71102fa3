"""Is a tensor right that a method sees whole? As a whole, within what its own condition makes of rounding.

A decomposition has no formula that could be followed element by element. But the algorithms are backward stable: what
they return is exact for matrices a few roundings away (Golub and Van Loan, *Matrix Computations*, 5.4 and 8.6). So the
float64 reference is asked again about matrices that are so far away at random, and with another idea of what is zero
but for rounding. How much its answers differ is how much rounding may change the result: Weft may be a few times
farther, in the Frobenius norm, beside the rounding of every element. Where that is a large part of the change itself
(two singular values nearly equal at a cut, directions nearly common), the matrix is ill-conditioned: it is counted as
forked, and only what is left of the bound speaks.

What Arcee Fusion copies is decided in float64 on both sides: each element is either model's, and the right one's unless
its importance is within rounding of the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.long.answers import NoReferenceError, answers, changed
from tests.long.bounded import DOUBLE, Precision, World
from tests.long.cases import Array
from tests.long.figures import Scope
from tests.long.formulas import Figures, Sight, changes, mapped
from tests.long.jobs import Job
from tests.long.verdicts import VARIANCES, Verdict, first, rounded
from tests.references import whole_matrices
from weft.algorithms.svc import Svc

_TRIES, _STEP, _MARGIN = 4, 8.0, 8.0
"""How often the reference is asked again, about matrices how many roundings away, and how much farther Weft may be."""
_MUCH = 0.01
"""What part of the change is so much that rounding must not make it, or the matrix is ill-conditioned."""
_IN_DOUBLE = ("regmean", "mats", "model_stock")
"""Methods that compute in float64 whatever the inputs are."""

Answer = Callable[[list[Array], Array | None, float], Array]
"""From the models (or task vectors), what was merged before a correction, and the unit of rounding to the tensor."""


def is_whole(job: Job) -> bool:
    """Whether a step sees this tensor whole."""
    return computes(job) or corrects(job)


def computes(job: Job) -> bool:
    """Whether the method itself does."""
    whole = job.program.whole
    given = [job.beside[name] for name in job.program.beside if job.program.beside[name].optional]
    known = all(one is not None for values in given for i, one in enumerate(values or ()) if i not in _idle(job))
    return whole is not None and job.tuned[0].size > 0 and known and whole.is_for(job.names, job.shape)


def corrects(job: Job) -> bool:
    """Whether what comes after it does."""
    return job.program.after is not None and job.program.after.is_for(job.names, job.shape)


def judged_whole(scope: Scope, job: Job, figures: Figures, written: Array) -> Verdict:
    """One tensor."""
    sight = Sight(scope, job, figures, World(scope.precision), job.program.functions)
    if job.method.name == "arcee_fusion" and job.program.change is None and not corrects(job):
        return _judged_copies(job, written)
    unit = _unit(job, scope.precision)
    answer, tensors = answer_of(job), _Tensors(scope, sight)
    with np.errstate(all="ignore"):
        expected, spread = _spread(answer, tensors, unit)
    return _compared(job, scope.precision, written, expected, spread)


def _unit(job: Job, precision: Precision) -> float:
    double = job.method.name in _IN_DOUBLE or getattr(job.method, "double", False)
    return DOUBLE.unit if double and not corrects(job) else precision.unit


def _idle(job: Job) -> set[int]:
    """Models without a weight."""
    weight = getattr(job.method, "weight", ())
    return {*job.absent, *(i for i, w in enumerate(weight) if w == 0.0)}


class _Tensors:
    """What a step sees of the models, in float64, and how far the merge's may be from it."""

    def __init__(self, scope: Scope, sight: Sight) -> None:
        job = sight.job
        seen = _seen(scope, job)
        self.job = job
        self.tuned = [np.asarray(one) for one in (seen.tuned if seen else _followed(sight))]
        deltas = changes(sight) if job.base is not None else []
        self.errors = [np.broadcast_to(d.error, job.tuned[0].size).reshape(job.shape) for d in deltas]
        self.errors = self.errors or [np.zeros(job.shape)] * len(self.tuned)
        if (
            corrects(job) and job.program.change is not None and job.base is not None
        ):  # it sees their sums with the base
            self.errors = [error + scope.precision.unit * np.abs(job.base) for error in self.errors]
        self.origin = seen.base if seen else np.zeros(job.shape)
        self.merged: Array | None = None
        self.off = np.zeros(job.shape)
        if corrects(job) and not computes(job):
            made = mapped(sight)
            told = answers(scope.jobs)[job]
            self.merged = (made.value if told is None else told).reshape(job.shape) * np.ones(job.shape)
            self.off = np.broadcast_to(made.error, job.tuned[0].size).reshape(job.shape)

    def nearby(self, rng: np.random.Generator, unit: float) -> tuple[list[Array], Array | None]:
        """Others that rounding may make of these."""
        origin = np.zeros(self.job.shape) if self.origin is None else self.origin
        tuned = [t + e * _signs(rng, t) + _noise(rng, t - origin, unit) for t, e in zip(self.tuned, self.errors)]
        merged = None if self.merged is None else self.merged + self.off * _signs(rng, self.merged)
        return tuned, merged


def _seen(scope: Scope, job: Job) -> Job | None:
    """The tensor as the method sees it, if the reference of what happens before can tell."""
    seen = changed(scope.jobs)
    return seen[list(scope.jobs).index(job)] if seen else None


def _followed(sight: Sight) -> list[Array]:
    """The changed task vectors, by the formula of what changes them."""
    return [np.broadcast_to(d.value, sight.job.tuned[0].size).reshape(sight.job.shape) for d in changes(sight)]


def _signs(rng: np.random.Generator, like: Array) -> Array:
    return rng.uniform(-1.0, 1.0, like.shape)


def _noise(rng: np.random.Generator, like: Array, unit: float) -> Array:
    """A random matrix, some roundings as long as another."""
    drawn = rng.standard_normal(like.shape)
    return np.asarray(drawn * (_STEP * unit * np.linalg.norm(like) / max(float(np.linalg.norm(drawn)), 1e-300)))


def _spread(answer: Answer, tensors: _Tensors, unit: float) -> tuple[Array, float]:
    """What the reference says, and how far its answers about nearby tensors are from that."""
    expected = answer(tensors.tuned, tensors.merged, unit)
    rng, most = np.random.default_rng(0), 0.0
    for k in range(_TRIES):
        tuned, merged = tensors.nearby(rng, unit)
        try:
            other = answer(tuned, merged, unit * (0.25, 1.0, 4.0, 1.0)[k % 4])
        except np.linalg.LinAlgError:
            return expected, np.inf
        apart = float(np.linalg.norm(other - expected))
        most = max(most, apart if np.isfinite(apart) else np.inf)
    return expected, _MARGIN * most


def _compared(job: Job, precision: Precision, written: Array, expected: Array, spread: float) -> Verdict:
    base = np.zeros(job.shape) if job.base is None else job.base
    said = np.maximum(expected, 0.0) if job.name.endswith(VARIANCES) else expected
    own = 4 * precision.unit * (np.abs(base) + np.abs(said)) + precision.tiny
    wrote = written.astype(np.float64)
    low, high = rounded(said - own, job.dtype), rounded(said + own, job.dtype)
    with np.errstate(invalid="ignore"):  # what is too large for the format is infinite on both sides
        apart = np.where((low <= wrote) & (wrote <= high), 0.0, np.minimum(np.abs(wrote - low), np.abs(wrote - high)))
    size = float(np.linalg.norm(expected - base))
    wrong = not float(np.linalg.norm(apart)) <= spread + _coarse(said, spread, job.dtype)
    forked = wrote.size if spread > _MUCH * size else 0
    where = ~(apart < np.max(apart)) if wrong else np.zeros(wrote.shape, bool)
    return Verdict(
        tuple(first(job.name, where, written, said, low - spread, high + spread, "Weft")), wrote.size, forked
    )


def _coarse(said: Array, spread: float, dtype: str) -> float:
    """How much longer a difference may become when it is rounded to the output's format."""
    if spread == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        steps = rounded(np.abs(said) + spread, dtype) - rounded(np.abs(said), dtype)
    return float(np.linalg.norm(np.nan_to_num(steps, nan=0.0, posinf=0.0)))


def _judged_copies(job: Job, written: Array) -> Verdict:
    """Arcee Fusion."""
    assert job.base is not None
    model = job.tuned[0]
    score, bar = whole_matrices.arcee_fusion(job.base, model, fences=getattr(job.method, "fences"))  # noqa: B009
    near = np.abs(score - bar) <= 1e-7 * (np.abs(score) + abs(bar)) + 1e-30
    said = np.where(score >= bar, model, job.base)
    wrote = written.astype(np.float64)
    other = np.where(score >= bar, job.base, model)
    wrong = (wrote != rounded(said, job.dtype)) & ~(near & (wrote == rounded(other, job.dtype)))
    return Verdict(tuple(first(job.name, wrong, written, said, said, said, "Weft")), wrote.size, int(near.sum()))


def answer_of(job: Job) -> Answer:
    """The reference for a tensor."""
    method: Any = job.method
    weight = [0.0 if i in job.absent else w for i, w in enumerate(getattr(method, "weight", [1.0] * len(job.tuned)))]
    chosen = [i for i, w in enumerate(weight) if w != 0.0]
    alone = job.program.relative and job.program.change is not None
    base = job.base if job.base is not None and not alone else np.zeros(job.shape)
    added = job.base if alone and job.base is not None else np.zeros(job.shape)

    def answer(tuned: list[Array], merged: Array | None, unit: float) -> Array:
        made = merged if merged is not None else added + _merged(job, base, [tuned[i] for i in chosen], weight, unit)
        if not corrects(job):
            return made
        step = job.after or method
        assert isinstance(step, Svc)
        taus = [tuned[i] - base for i in chosen]
        start = base + added
        return start + whole_matrices.svc(made - start, taus, alpha=step.alpha) if taus else made

    return answer


def _merged(job: Job, base: Array, tuned: list[Array], weight: list[float], unit: float) -> Array:
    """What the method makes of the models that have a weight."""
    method: Any = job.method
    weights = [w for w in weight if w != 0.0]
    name = method.name
    given = {n: [v for v, w in zip(vs, weight) if w != 0.0] for n, vs in job.beside.items() if isinstance(vs, tuple)}
    if name in whole_matrices.CHANGES:
        function = whole_matrices.CHANGES[name]
        own = {n: getattr(method, n) for n in function.__annotations__ if n in type(method).model_fields}
        taus = [w * (t - base) for w, t in zip(weights, tuned)]
        return np.asarray(base + getattr(method, "scale", 1.0) * function(taus, 2 * unit, **own))
    if name == "regmean":
        return _turned(job, tuned, lambda models: _regressed(job, models, given, weights))
    if name == "mats":
        start = job.beside.get("origin", base if method.start == "base" else None)
        return _turned(job, tuned, lambda models: _matched(job, models, given, weights, start))
    if name == "arcee_fusion":
        score, bar = whole_matrices.arcee_fusion(base, tuned[0], fences=method.fences)
        return np.where(score >= bar, tuned[0], base)
    raise NoReferenceError(f"method {name}: tests/references/whole_matrices.py has no function for it")


def _turned(job: Job, tuned: list[Array], function: Callable[[list[Array]], Array]) -> Array:
    """What is stored as inputs x outputs is turned, and back."""
    from fnmatch import fnmatchcase

    method: Any = job.method
    turned = len(job.shape) == 2 and any(fnmatchcase(job.name, pattern) for pattern in method.transposed)
    return function([t.T for t in tuned]).T if turned else function(tuned)


def _regressed(job: Job, models: list[Array], given: dict[str, list[Array]], weights: list[float]) -> Array:
    method: Any = job.method
    stored = np.finfo(np.float32).eps
    return whole_matrices.regmean(models, given["gram"], weights, float(stored), off_diagonal=method.off_diagonal)


def _matched(job: Job, models: list[Array], given: dict[str, list[Array]], weights: list[float], start: Any) -> Array:
    method: Any = job.method
    return whole_matrices.mats(
        models,
        weights,
        objective=method.objective,
        off_diagonal=method.off_diagonal,
        iterations=method.iterations,
        tolerance=method.tolerance,
        start=start if start is None or start.shape == models[0].shape else start.T,
        gram=given.get("gram"),
        gradients=given.get("gradients"),
        fisher=given.get("fisher"),
    )
