"""Between a method's scalar functions, which ask for arguments by name, and compiled loops, which take arrays."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from weft.algorithms.program import Note
from weft.engine.reading import StripInputs
from weft.engine.work import Key, Signature, Work
from weft.kernels.compiler import Input, Kernel, Loop, compiled, packed
from weft.kernels.dtypes import DType
from weft.kernels.element import Scalar

Values = Mapping[str, float | tuple[float, ...]]
"""The numbers that scalar functions may ask for, by name: one, or one for each model."""


@dataclass(frozen=True)
class Bound:
    """A compiled loop with what it takes for one tensor."""

    kernel: Kernel
    keys: tuple[Key, ...]
    values: np.ndarray[Any, Any]
    end: int

    def __call__(self, inputs: StripInputs, start: int, out: np.ndarray[Any, Any]) -> int:
        """Compute a strip that begins at element `start` into `out`; the number of elements that were noted."""
        return self.kernel(out, start, self.end, self.values, *map(inputs, self.keys))

    @property
    def alike(self) -> tuple[object, ...]:
        """Equal for tensors that the same machine code computes with the same numbers."""
        return (self.kernel, self.values.tobytes(), self.end)


def bind(
    work: Work,
    function: Scalar,
    functions: Mapping[str, Scalar],
    values: Values,
    output: DType,
    end: int,
    compute: DType | None = None,
    model: int | None = None,
    note: Note | None = None,
) -> Bound:
    """Compile a scalar function for a tensor.

    Args:
        work: the tensor.
        function: what is computed for each element.
        functions: what it receives for its function-valued arguments.
        values: the numbers at hand.
        output: how results are stored.
        end: index of the last element of the scope in this tensor, or -1.
        compute: the precision; the tensor's own if it is not given.
        model: compute it for this model alone: per-model arguments are then its own single values.
        note: what to count.
    """
    names = tuple((name, len(v) if isinstance(v, tuple) else 0) for name, v in values.items())
    made_of = (work.signature, work.models, compute or work.compute, function, tuple(functions.items()), names)
    kind = _kind(*made_of, output, model, note)
    numbers = {name: _own(values[name], model) for name in kind.names}
    return Bound(kind.kernel, kind.keys, packed(kind.loop, numbers), end)


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
    signature: Signature,
    models: int,
    compute: DType,
    function: Scalar,
    functions: tuple[tuple[str, Scalar], ...],
    values: tuple[tuple[str, int], ...],
    output: DType,
    model: int | None,
    note: Note | None,
) -> _Kind:
    asked = arguments(function, *([note.happens] if note else []))
    own = [entry for entry in signature if entry[0] in asked and (model is None or entry[1] in (None, model))]
    own.sort(key=lambda entry: (entry[0], -1 if entry[1] is None else entry[1]))
    inputs = tuple(Input(name, None if model is not None else of, dtype, number) for name, of, dtype, number in own)
    loop = Loop(
        element=function,
        functions=tuple((name, f) for name, f in functions if name in asked),
        inputs=inputs,
        values=tuple(sorted((name, count if model is None else 0) for name, count in values if name in asked)),
        models=models if model is None else 1,
        compute=compute,
        output=output,
        note=note.happens if note else None,
    )
    keys = tuple((name, of) for name, of, dtype, _ in own if dtype is not None)
    return _Kind(loop, compiled(loop), keys, tuple(name for name, _ in loop.values))


def arguments(*functions: Scalar) -> set[str]:
    """The names that scalar functions ask for."""
    return {name for function in functions for name in _asked(function)}


@cache
def _asked(function: Scalar) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _own(value: float | tuple[float, ...], model: int | None) -> float | tuple[float, ...]:
    return value[model] if isinstance(value, tuple) and model is not None else value
