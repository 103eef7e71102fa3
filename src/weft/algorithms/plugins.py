"""Methods that other packages bring, as entry points of the group `weft.methods`; loaded when they are asked for."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from weft.algorithms.method import Method, Step
from weft.errors import InputError, WeftError
from weft.kernels.element import ElementError

GROUP = "weft.methods"
"""What a package calls the list of its methods in its `pyproject.toml`: `[project.entry-points."weft.methods"]`."""

_COLOUR = re.compile(r"\x1b\[\d*m")
"""What numba puts into its messages for terminals."""


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


def is_foreign(kind: type[Step]) -> bool:
    """Whether a method is another package's, so that what is wrong with it is no mistake of this one."""
    return not _belongs(kind.__module__, __name__)


@contextmanager
def blamed(kind: type[Step], place: str = "") -> Iterator[None]:
    """Around what a method does: a mistake in another package's is told in a sentence; one in our own is a bug.

    Args:
        kind: the method.
        place: where it is, should no line of the package have been run when it was found.

    Raises:
        InputError: naming the method, its package, the kind of mistake and the line.
    """
    try:
        yield
    except WeftError:
        raise
    except Exception as error:  # whatever a stranger's method does
        if not is_foreign(kind):
            raise
        raise blame(kind, error, place) from error


def blame(kind: type[Step], error: Exception, place: str = "") -> InputError:
    """What to say of a mistake in another package's method."""
    cause = _cause(error, place_in(error, kind.__module__) or place)
    packages = " and ".join(map(_package, _offered().get(kind.name, ()))) or kind.__module__
    what = f"the method {kind.name!r} of {packages} cannot be used: {cause}"
    return InputError(what, "mend that package, or choose another method")


def place_in(error: BaseException, module: str) -> str:
    """The line of a module's package that an error came from, or is about; empty if there is none."""
    if isinstance(error, ElementError) and _belongs(error.module, module):
        return error.place
    frames = [(f.f_globals.get("__name__", ""), f.f_code, n) for f, n in traceback.walk_tb(error.__traceback__)]
    lines = [f"{Path(code.co_filename).name}, line {line}" for name, code, line in frames if _belongs(name, module)]
    return lines[-1] if lines else ""


def _belongs(name: str, module: str) -> bool:
    """Whether two modules are of one package."""
    return name.partition(".")[0] == module.partition(".")[0]


def _cause(error: BaseException, place: str) -> str:
    """An error in one line, and where it is; of one of numba's what follows the step in which it was found."""
    if isinstance(error, ElementError):
        return f"{error} ({error.place})"
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Failed in ")]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    known = isinstance(error, SyntaxError) and error.filename  # which it says itself
    return f"{said} ({place})" if place and not known else said


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
        cause = _cause(error, place_in(error, point.module))
        what = f"the method {point.name!r} of {_package(point)} cannot be loaded: {cause}"
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
