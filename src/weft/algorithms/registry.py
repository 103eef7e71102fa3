"""The methods by name. Complete when it is imported."""

from __future__ import annotations

from types import MappingProxyType

from weft.algorithms.fisher import Fisher
from weft.algorithms.linear import Linear
from weft.algorithms.method import Method
from weft.algorithms.task_arithmetic import TaskArithmetic
from weft.algorithms.ties import Ties
from weft.errors import InputError, nearest

METHODS: MappingProxyType[str, type[Method]] = MappingProxyType(
    {method.name: method for method in (Linear, TaskArithmetic, Ties, Fisher)}
)


def methods() -> tuple[str, ...]:
    """The names of all methods.

    Example:
        >>> methods()
        ('linear', 'task_arithmetic', 'ties', 'fisher')
    """
    return tuple(METHODS)


def method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        InputError: with the nearest name, if there is none.

    Example:
        >>> method("ties").model_fields["density"].default
        0.2
    """
    if name not in METHODS:
        raise InputError(
            f"there is no method {name!r}", nearest(name.lower(), METHODS) or f"the methods are {', '.join(METHODS)}"
        )
    return METHODS[name]
