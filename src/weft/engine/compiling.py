"""What a merge will run, compiled before it begins: what is wrong with a method is told then."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from weft.algorithms.method import Step
from weft.algorithms.plugins import blame, blamed, is_foreign, place_in
from weft.algorithms.program import Derived, Gram, Number, Stage
from weft.engine.binding import bind_map, bind_statistic
from weft.engine.settling import numbers
from weft.engine.whole import is_whole
from weft.engine.work import Work
from weft.errors import Gathering, InputError, WeftError
from weft.kernels.dtypes import FLOAT64
from weft.kernels.element import place_of


def compile_loops(work: Work) -> None:
    """Compile what computes a tensor; what does so by another package's method was compiled when it was checked."""
    if any(_foreign(work)):
        return
    known: dict[str, Number] = numbers(work)
    for stage in work.program.stages:
        _compile_statistic(work, stage, known)
        known.setdefault(stage.statistic.name, (0.0,) * work.models if _is_per_model(stage) else 0.0)
    bind_map(work, known, work.spec.dtype, -1)


def _compile_statistic(work: Work, stage: Stage, known: Mapping[str, Number]) -> None:
    if isinstance(stage.statistic, Derived):
        return
    compute = FLOAT64 if stage.statistic.double else work.compute
    model = 0 if _is_per_model(stage) else None
    bind_statistic(work, stage, work.program.all_functions, known, -1, compute, model)


def _is_per_model(stage: Stage) -> bool:
    """Whether there is a number for each model; of one that is derived nobody knows, and most are."""
    statistic = stage.statistic
    return isinstance(statistic, Derived) or statistic.each or isinstance(statistic.fold, Gram)


def check_methods(works: Iterable[Work]) -> None:
    """Compile what methods of other packages ask for, so that a mistake in one is told before anything is written.

    Raises:
        InputError: naming each method, its package, the mistake and where it is.
    """
    problems = Gathering()
    ours: set[int] = set()  # programs, of which there are few where tensors are many
    seen: set[Hashable] = set()
    for work in works:
        if id(work.program) in ours:
            continue
        if not any(_foreign(work)):
            ours.add(id(work.program))
            continue
        kind = (id(work.program), work.signature, work.compute, work.spec.dtype)
        if work.spec.size and kind not in seen:
            seen.add(kind)
            with problems:
                _check(work)
    problems.tell()


@contextmanager
def blamed_methods(works: Iterable[Work]) -> Iterator[None]:
    """Around a merge: an error that comes out of another package's method is told as that method's.

    Raises:
        InputError: naming it.
    """
    try:
        yield
    except WeftError:
        raise
    except Exception as error:  # whatever a stranger's function does
        kinds = dict.fromkeys(kind for work in works for kind in _foreign(work))
        for kind in kinds:
            if place_in(error, kind.__module__):
                raise blame(kind, error) from error
        raise


def _foreign(work: Work) -> Iterator[type[Step]]:
    """Those of a tensor's methods that other packages bring."""
    return (type(step) for step in (work.method.steps if work.method else ()) if is_foreign(type(step)))


def _check(work: Work) -> None:
    """Compile a tensor's loops; whether a derived number is one, or one for each model, is not known before it is."""
    has_derived = any(isinstance(stage.statistic, Derived) for stage in work.program.stages)
    shapes: list[Number] = [(0.0,) * work.models, *([0.0] if has_derived else [])]
    found: list[InputError] = []
    for derived in shapes:
        try:
            return _check_with(work, derived)
        except InputError as error:
            found.append(error)
    raise found[0]


def _check_with(work: Work, derived: Number) -> None:
    assert work.method is not None
    first, method = type(work.method.before or work.method.method), type(work.method.method)
    known: dict[str, Number] = numbers(work)
    for stage in work.program.stages:
        statistic = stage.statistic
        if isinstance(statistic, Derived):
            known[statistic.name] = derived
            continue
        with blamed(first if stage.prefix else method, place_of(statistic.expression)):
            _compile_statistic(work, stage, known)
        known[statistic.name] = (0.0,) * work.models if _is_per_model(stage) else 0.0
    if not is_whole(work):
        with blamed(method if is_foreign(method) else first, place_of(work.program.element)):
            bind_map(work, known, work.spec.dtype, -1)
