"""The language in which a method is written: one scalar function of one parameter.

Its laws:

* It is plain Python: calling it with floats and tuples of floats gives the answer. That is how tests read it.
* It asks for what it needs **by argument name**, as a pytest test asks for fixtures: `base`, `tuned` (a tuple, one
  value per model), `index` (the element's place in its tensor), `last` (true for the last parameter of the scope),
  the method's own parameters, the results of its statistics, its auxiliary inputs.
* The only thing to iterate over is the models: `for x in tuned`, `for x, w in zip(tuned, weight)`,
  `for i in range(len(tuned))`, `tuple(x - base for x in tuned)`. These loops are written out at compile time, so
  they have no `break` or `continue`. There is no other loop: no `while`, and no comprehension but that `tuple`.
* Numbers are written as floats (`0.0`, not `0`); they take the precision of the merge.
* It may call `exp` and `tanh` of `weft.kernels.elementary`, which give the same bits everywhere.
* It may call other functions marked `@element`, and may receive such functions as arguments (how `ties` receives
  its `trim`, `elect` and `combine`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Scalar = Callable[..., Any]
"""A function marked with `@element`."""

F = TypeVar("F", bound=Scalar)

_MARK = "__weft_element__"


def element(function: F) -> F:
    """Mark a scalar function as one that the engine may compile. The function itself is unchanged.

    Example:
        >>> @element
        ... def mean(tuned):
        ...     total = 0.0
        ...     for theta in tuned:
        ...         total += theta
        ...     return total / len(tuned)
        >>> mean((1.0, 2.0))
        1.5
    """
    setattr(function, _MARK, True)
    return function


class ElementError(TypeError):
    """A scalar function says what cannot be compiled, or another function of a method gives what is no number.

    Args:
        text: what it is.
        function: the function.
        line: in its file; without it, where the function begins.

    Attributes:
        place: the file and the line.
        module: that of the function.
    """

    def __init__(self, text: str, function: Scalar, line: int = 0) -> None:
        super().__init__(text)
        self.place = place_of(function, line)
        self.module = function.__module__


def place_of(function: object, line: int = 0) -> str:
    """The file and the line of a function, for messages; empty for what is no function written in Python."""
    code = getattr(function, "__code__", None)
    return f"{Path(code.co_filename).name}, line {line or code.co_firstlineno}" if code else ""


def is_element(value: object) -> bool:
    """Whether this is a function marked with `@element`."""
    return getattr(value, _MARK, False) is True
