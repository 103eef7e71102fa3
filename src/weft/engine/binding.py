"""Between a method's scalar functions, which ask for arguments by name, and compiled loops, which take arrays."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from weft.algorithms.method import Note
from weft.engine.reading import TileInputs
from weft.engine.work import Key, Operand, Work
from weft.kernels.compiler import Input, Kernel, Loop, compiled, packed
from weft.kernels.dtypes import DType
from weft.kernels.element import Scalar

Values = Mapping[str, float | tuple[float, ...]]
"""The numbers that scalar functions may ask for, by name: one, or one for each model."""


@dataclass(frozen=True)
class Bound:
    """A compiled loop with what it takes for one tensor."""

    kernel: Kernel
    operands: tuple[tuple[Key, Operand], ...]
    values: np.ndarray[Any, Any]
    end: int

    def __call__(self, inputs: TileInputs, start: int, out: np.ndarray[Any, Any]) -> int:
        """Compute a tile that begins at element `start` into `out`; the number of elements that were noted."""
        return self.kernel(out, start, self.end, self.values, *(inputs(*operand) for operand in self.operands))


def bind(
    work: Work,
    function: Scalar,
    functions: Mapping[str, Scalar],
    values: Values,
    output: DType,
    end: int,
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
        model: compute it for this model alone: per-model arguments are then its own single values.
        note: what to count.
    """
    asked = arguments(function, *([note.happens] if note else []))
    of_models = (None, *range(work.models)) if model is None else (None, model)
    keys = [
        key for key in sorted((*work.operands, *work.constants), key=_order) if key[0] in asked and key[1] in of_models
    ]
    inputs = tuple(_input(work, key, model) for key in keys)
    numbers = {name: _own(value, model) for name, value in values.items() if name in asked}
    loop = Loop(
        element=function,
        functions=tuple((name, f) for name, f in functions.items() if name in asked),
        inputs=inputs,
        values=tuple((name, len(v) if isinstance(v, tuple) else 0) for name, v in sorted(numbers.items())),
        models=work.models if model is None else 1,
        compute=work.compute,
        output=output,
        note=note.happens if note else None,
    )
    read = tuple((key, work.operands[key]) for key in keys if key in work.operands)
    return Bound(compiled(loop), read, packed(loop, numbers), end)


def arguments(*functions: Scalar) -> set[str]:
    """The names that scalar functions ask for."""
    return {name for function in functions for name in _asked(function)}


@cache
def _asked(function: Scalar) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _order(key: Key) -> tuple[str, int]:
    return (key[0], -1 if key[1] is None else key[1])


def _input(work: Work, key: Key, model: int | None) -> Input:
    position = None if model is not None else key[1]
    if key in work.constants:
        return Input(key[0], position, None, work.constants[key])
    return Input(key[0], position, work.operands[key].spec.dtype)


def _own(value: float | tuple[float, ...], model: int | None) -> float | tuple[float, ...]:
    return value[model] if isinstance(value, tuple) and model is not None else value
