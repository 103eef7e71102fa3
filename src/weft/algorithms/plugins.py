"""Methods that other packages bring, as entry points of the group `weft.methods`; loaded when they are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from weft.algorithms.method import Method
from weft.errors import InputError

GROUP = "weft.methods"
"""What a package calls the list of its methods in its `pyproject.toml`: `[project.entry-points."weft.methods"]`."""


@cache
def _offered() -> Mapping[str, tuple[EntryPoint, ...]]:
    """For every name the packages that offer a method of it."""
    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _package(point))):
        found.setdefault(point.name, {})[point.value, _package(point)] = point
    return {name: tuple(points.values()) for name, points in found.items()}


def names() -> tuple[str, ...]:
    """What other packages call their methods; nothing of them is imported."""
    return tuple(_offered())


def loaded(name: str) -> type[Method]:
    """A method of another package.

    Args:
        name: one of `names()`.

    Raises:
        InputError: naming the package, if it cannot be imported, is no method, or is offered twice.
    """
    points = _offered()[name]
    if len(points) > 1:
        packages = " and ".join(_package(point) for point in points)
        raise InputError(f"two packages offer a method {name!r}: {packages}", "uninstall one of them")
    (point,) = points
    return _checked(point, _imported(point))


def shadowed(name: str) -> tuple[str, str]:
    """What to say of a method that has the name of one of this package: the finding and the remedy."""
    packages = " and ".join(_package(point) for point in _offered()[name])
    return f"the method {name!r} of {packages} is not used: weft has one of that name", "give it another name"


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
        what = f"the method {point.name!r} of {_package(point)} cannot be loaded: {type(error).__name__}: {error}"
        raise InputError(what, "mend that package, or uninstall it") from error


def _checked(point: EntryPoint, value: Any) -> type[Method]:
    if not (inspect.isclass(value) and issubclass(value, Method)) or inspect.isabstract(value):
        wrong = "is not a complete subclass of weft.authoring.Method"
    elif getattr(value, "name", None) != point.name:
        wrong = f"has the name {getattr(value, 'name', None)!r}"
    elif missing := [word for word in Method.TOLD if not hasattr(value, word)]:
        wrong = f"does not say its {', '.join(missing)}"
    else:
        return value
    what = f"the method {point.name!r} of {_package(point)} cannot be used: {point.value} {wrong}"
    raise InputError(what, "mend that package, or uninstall it")


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
