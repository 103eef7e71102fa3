"""The exponential functions of the scalar language, as Python has them; compiled loops have those of `exponentials`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any


def exp(x: float) -> float:
    """E to the power of x.

    Example:
        >>> exp(1.0)
        2.718281828459045
    """
    return math.exp(x) if x < _OVERFLOW else math.inf


def tanh(x: float) -> float:
    """The hyperbolic tangent of x, as exact near 0 as anywhere.

    Example:
        >>> tanh(1e-9), tanh(100.0)
        (1e-09, 1.0)
    """
    return math.tanh(x)


FUNCTIONS: dict[Callable[..., Any], str] = {exp: "exp", tanh: "tanh"}
"""What scalar functions may call beside each other, and what the compiled ones of a precision are called: the name, an
underscore and the precision."""

_OVERFLOW = 709.782712893384


def name_of(value: object) -> str | None:
    """What a function of the language is called; None for anything else.

    Example:
        >>> name_of(tanh), name_of(math.tanh)
        ('tanh', None)
    """
    return FUNCTIONS.get(value) if inspect.isfunction(value) else None
