"""Between a method's scalar functions, which ask for arguments by name, and compiled loops, which take arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from weft.algorithms.program import BEFORE, Change, Derived, Note, Program, Stage, Statistic
from weft.engine.work import Key, Signature, Work
from weft.kernels.compiler import COMMON, Input, Kernel, Loop, compiled, packed
from weft.kernels.draws import keys_of
from weft.kernels.dtypes import FLOAT32, DType
from weft.kernels.element import Scalar

Values = Mapping[str, float | tuple[float, ...]]
"""The numbers that scalar functions may ask for, by name: one, or one for each model."""

RANK = BEFORE + "rank"
"""The argument that the engine feeds with the places of parameters in their rows."""


@dataclass(frozen=True)
class Bound:
    """A compiled loop with what it takes for one tensor."""

    kernel: Kernel
    keys: tuple[Key, ...]
    values: np.ndarray[Any, Any]
    end: int
    drawn: tuple[np.ndarray[Any, Any], ...] = ()

    def __call__(self, inputs: Callable[[Key], Any], start: int, out: np.ndarray[Any, Any]) -> int:
        """Compute a strip that begins at element `start` into `out`; the number of elements that were noted."""
        return self.kernel(out, start, self.end, self.values, *self.drawn, *map(inputs, self.keys))

    @cached_property
    def alike(self) -> tuple[object, ...]:
        """Equal for tensors that the same machine code computes with the same numbers."""
        return (self.kernel, self.values.tobytes(), self.end)


class Bindings:
    """What is bound in one pass, once for all tensors that are computed alike with the same numbers."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Bound] = {}

    def of(self, work: Work, values: Values, end: int, model: int | None, bind: Callable[[], Bound]) -> Bound:
        """A tensor's loop; `bind` makes it, and it depends on nothing but the pass and what is given beside."""
        if work.program.change is not None:  # whose random numbers depend on the tensor's name
            return bind()
        own = (id(work.program), work.signature, work.compute, work.spec.dtype)
        key = (*own, end, model, *values.values())
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = bind()
        return known


def bind_statistic(
    work: Work,
    stage: Stage,
    functions: Mapping[str, Scalar],
    values: Values,
    end: int,
    compute: DType,
    model: int | None,
) -> Bound:
    """Compile the expression of a statistic for a tensor.

    Args:
        work: the tensor.
        stage: the statistic.
        functions: what it receives for its function-valued arguments; what the change receives is the tensor's own.
        values: the numbers at hand.
        end: index of the last element of the scope in this tensor, or -1.
        compute: the precision.
        model: compute it for this model alone: per-model arguments are then its own single values.
    """
    assert isinstance(stage.statistic, Statistic)
    change = None if stage.prefix else work.program.change
    question = _Question(stage.statistic.expression, stage.prefix, change, work.program.relative, maps=False)
    own = {name: f for name, f in work.program.all_functions.items() if name.startswith(BEFORE)}
    if stage.statistic.among and model is not None:
        values, model = {**values, stage.prefix + "own": float(model)}, None
    return _bound(work, question, {**functions, **own}, values, compute, end, compute, model, None)


def bind_map(work: Work, values: Values, output: DType, end: int) -> Bound:
    """Compile what makes a tensor of the output.

    Args:
        work: the tensor.
        values: the numbers at hand.
        output: how results are stored.
        end: index of the last element of the scope in this tensor, or -1.
    """
    program = work.program
    question = _Question(program.element, "", program.change, program.relative, maps=True)
    return _bound(work, question, program.all_functions, values, output, end, work.compute, None, program.note)


def bind_ranking(work: Work, model: int) -> Bound:
    """Compile what a model's parameters are put in order by."""
    assert work.program.change is not None
    assert work.program.change.ranking is not None
    question = _Question(work.program.change.ranking, BEFORE, None, False, maps=False)
    return _bound(work, question, {}, {}, work.compute, -1, work.compute, model, None)


@dataclass(frozen=True, eq=False)
class _Question:
    """What is computed for each element.

    Attributes:
        function: the scalar function.
        prefix: what the names that belong to it begin with.
        change: what happens to each model's value first.
        relative: whether it then sees differences to the base.
        maps: whether it makes the output.
    """

    function: Scalar
    prefix: str
    change: Change | None
    relative: bool
    maps: bool

    @property
    def made_of(self) -> tuple[object, ...]:
        """What decides which machine code answers it."""
        change = self.change.element if self.change else None
        return (self.function, self.prefix, change, self.relative, self.maps)

    def asked(self, given: Collection[str], note: Note | None = None) -> set[str]:
        """The names that it asks for, as they are given."""
        names = {_given(self.prefix, name, given) for name in arguments(self.function)}
        names |= arguments(note.happens) if note else set()
        if self.change and "tuned" in names:
            names |= {"base", *(_given(BEFORE, name, given) for name in arguments(self.change.element))}
        return names


def _given(prefix: str, name: str, given: Collection[str]) -> str:
    """Under which name an argument is given: with the prefix, unless it is nobody's own."""
    return name if prefix + name not in given and name in COMMON else prefix + name


def asked_by(program: Program, stage: Stage | None) -> set[str]:
    """The names that a statistic, or without one the map, asks for."""
    given = {*program.numbers, *program.all_functions, *program.sources, RANK}
    given |= {stage.statistic.name for stage in program.stages}
    if stage is None:
        return _Question(program.element, "", program.change, program.relative, True).asked(given, program.note)
    if isinstance(stage.statistic, Derived):
        return set()
    change = None if stage.prefix else program.change
    return _Question(stage.statistic.expression, stage.prefix, change, program.relative, False).asked(given)


def _bound(
    work: Work,
    question: _Question,
    functions: Mapping[str, Scalar],
    values: Values,
    output: DType,
    end: int,
    compute: DType,
    model: int | None,
    note: Note | None,
) -> Bound:
    names = tuple((name, len(v) if isinstance(v, tuple) else 0) for name, v in values.items())
    made_of = (work.signature, work.models, compute, tuple(functions.items()), names, output, model, note)
    kind = _kind(question.made_of, *made_of)
    numbers = {name: _own(values[name], model) for name in kind.names}
    drawn = (_keys(work, model),) if kind.loop.draws else ()
    return Bound(kind.kernel, kind.keys, packed(kind.loop, numbers), end, drawn)


def _keys(work: Work, model: int | None) -> np.ndarray[Any, Any]:
    assert work.program.change is not None
    every = keys_of(work.program.change.seed, min(work.spec.name, *work.aliases, work.spec.name), work.models)
    return every if model is None else every[2 * model : 2 * model + 2]


@dataclass(frozen=True)
class Joined:
    """A compiled loop over several tensors that are alike, each a scope of its own with its own numbers."""

    kernel: Kernel
    keys: tuple[Key, ...]
    loop: Loop
    model: int | None

    def table(self, numbers: Mapping[str, np.ndarray[Any, Any]], count: int) -> np.ndarray[Any, Any]:
        """The loop's numbers, a row for each tensor.

        Args:
            numbers: by name, float64, shape [tensors] or [tensors, models].
            count: how many tensors there are.
        """
        columns = []
        for name, times in self.loop.values:
            given = numbers[name]
            own = given[:, self.model] if given.ndim == 2 and self.model is not None else given
            columns.append(own if own.ndim == 2 else np.repeat(own[:, None], max(times, 1), axis=1))
        return np.hstack([np.empty((count, 0)), *columns]).astype(self.loop.compute.storage)


def bind_joined(
    work: Work, statistic: Statistic | None, counts: Mapping[str, int], output: DType, model: int | None
) -> Joined:
    """Compile a statistic, or without one the map, for all tensors that are like this one.

    Args:
        work: one of them; its program changes nothing before.
        statistic: whose expression is computed.
        counts: how many there are of each number: one for each model, or 0 where there is one for all.
        output: how results are stored; a statistic is computed in this precision.
        model: compute it for this model alone.
    """
    program = work.program
    function, note = (statistic.expression, None) if statistic else (program.element, program.note)
    question = _Question(function, "", None, program.relative, maps=statistic is None)
    made_of = (work.signature, work.models, output if statistic else work.compute, tuple(program.functions.items()))
    kind = _kind(question.made_of, *made_of, tuple(counts.items()), output, model, note, joined=True)
    return Joined(kind.kernel, kind.keys, kind.loop, model)


@dataclass(frozen=True)
class _Kind:
    """What tensors that are computed alike have in common.

    Attributes:
        loop, kernel: the compiled loop.
        keys: what it reads, in its order.
        names: the numbers that it takes.
    """

    loop: Loop
    kernel: Kernel
    keys: tuple[Key, ...]
    names: tuple[str, ...]


@cache
def _kind(
    made_of: tuple[Any, ...],
    signature: Signature,
    models: int,
    compute: DType,
    functions: tuple[tuple[str, Scalar], ...],
    values: tuple[tuple[str, int], ...],
    output: DType,
    model: int | None,
    note: Note | None,
    joined: bool = False,
) -> _Kind:
    function, prefix, change, relative, maps = made_of
    question = _Question(function, prefix, change and Change(change), relative, maps)
    signature = (*signature, *((RANK, of, FLOAT32, 1.0) for of in range(models)))
    given = {*(entry[0] for entry in signature), *(n for n, _ in functions), *(n for n, _ in values)}
    asked = question.asked(given, note)
    own = [entry for entry in signature if entry[0] in asked and (model is None or entry[1] in (None, model))]
    own.sort(key=lambda entry: (entry[0] != RANK, entry[0], -1 if entry[1] is None else entry[1]))
    inputs = tuple(Input(name, None if model is not None else of, dtype, number) for name, of, dtype, number in own)
    changes = change is not None and "tuned" in asked
    loop = Loop(
        element=function,
        functions=tuple((name, f) for name, f in functions if name in asked),
        inputs=inputs,
        values=tuple(sorted((name, count if model is None else 0) for name, count in values if name in asked)),
        models=models if model is None else 1,
        compute=compute,
        output=output,
        note=note.happens if note else None,
        prefix=prefix,
        change=change if changes else None,
        relative=relative and changes,
        adds_base=relative and changes and maps,
    )
    keys = tuple((name, of) for name, of, dtype, _ in own if dtype is not None)
    return _Kind(loop, compiled(loop, joined=joined), keys, tuple(name for name, _ in loop.values))


def arguments(*functions: Scalar) -> set[str]:
    """The names that scalar functions ask for."""
    return {name for function in functions for name in _asked(function)}


@cache
def _asked(function: Scalar) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _own(value: float | tuple[float, ...], model: int | None) -> float | tuple[float, ...]:
    return value[model] if isinstance(value, tuple) and model is not None else value
