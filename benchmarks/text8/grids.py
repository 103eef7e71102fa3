"""What may be tuned of a method, read off its declared parameters: nothing here knows any method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo

from weft.algorithms.describing import together
from weft.algorithms.method import Method, Tensors
from weft.algorithms.registry import method as named

Settings = Mapping[str, Any]
FACTORS = (0.3, 0.5, 1.5)
"""What a factor's default is multiplied with."""
POWERS = (1e-2, 1e2)
"""What a small positive number, such as a floor, is multiplied with."""
LEFT_ALONE = frozenset({"weight", "seed"})
"""One weight for each model would be eight parameters; a seed is no choice."""


@dataclass(frozen=True)
class Choice:
    """One parameter that may be tuned.

    Attributes:
        name: of the parameter.
        values: to try besides the default.
        rank: which is tried first: factors, shares, other numbers, then options.
    """

    name: str
    values: tuple[Any, ...]
    rank: int


def choices(method: str) -> list[Choice]:
    """What is tuned of a method, the most promising first."""
    kind = named(method)
    found = [_choice(kind, name) for name in kind.model_fields if name not in LEFT_ALONE]
    return sorted((choice for choice in found if choice), key=lambda choice: choice.rank)


def _choice(kind: type[Method], name: str) -> Choice | None:
    info = kind.model_fields[name]
    default = info.default
    if isinstance(default, bool):
        return Choice(name, (not default,), 3)
    if isinstance(default, float) and default > 0.0:
        return _numbers(kind, name, default)
    options = _options(info.annotation)
    return Choice(name, tuple(value for value in options if value != default), 4) if options else None


def _numbers(kind: type[Method], name: str, default: float) -> Choice:
    bounds = _bounds(kind, name)
    if bounds.get("maximum") == 1.0:
        values = {_round(default / 2), _round(default * 2 if default < 0.5 else (1 + default) / 2)} - {default}
        return Choice(name, tuple(sorted(values)), 1)
    factors, rank = (POWERS, 2) if default < 1e-2 else (FACTORS, 0 if name == "scale" else 2)
    return Choice(name, tuple(_round(default * factor) for factor in factors), rank)


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _bounds(kind: type[Method], name: str) -> Mapping[str, Any]:
    schema = kind.model_json_schema()["properties"][name]
    return schema.get("items", schema)  # type: ignore[no-any-return]


def _options(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def statistics(method: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """The parameters of a method that are one file of tensors for each model, measured by a command of their name.

    So `fisher`, which `weft fisher` measures, is told from what a person may give besides, such as a mask. Of what
    tells a method the same in two ways, it is the way that is declared first.

    Args:
        method: its name.
        known: what is measured already, by whatever means.
    """
    measurable = {*_commands(), *known}
    return together(named(method), [name for name in files(method) if name in measurable])


def subjects(command: str) -> tuple[str, ...]:
    """The models that a command measures, as it calls them: `model`, or `base`, or `base` and `tuned`."""
    hints = get_type_hints(_commands()[command], include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return tuple(name for name, found in marks.items() if any(isinstance(mark, ArgumentInfo) for mark in found))


def _commands() -> dict[str, Callable[..., Any]]:
    """The commands of `weft`, by name."""
    from weft.cli.app import app

    callbacks = (command.callback for command in app.registered_commands)
    return {callback.__name__: callback for callback in callbacks if callback}


def files(method: str) -> tuple[str, ...]:
    """The parameters of a method that are one file of tensors for each model."""
    kind = named(method)
    return tuple(name for name in kind.model_fields if kind.is_per_model(name) and _is_file(kind, name))


def _is_file(kind: type[Method], name: str) -> bool:
    def holds(annotation: Any) -> bool:
        marks = getattr(annotation, "__metadata__", ())
        return any(isinstance(mark, Tensors) for mark in marks) or any(map(holds, get_args(annotation)))

    info = kind.model_fields[name]
    return any(isinstance(mark, Tensors) for mark in info.metadata) or holds(info.annotation)


@dataclass(frozen=True)
class Worth:
    """What settings are worth.

    Attributes:
        score: higher is better.
        merge: of the merge that they make, a hash.
    """

    score: float
    merge: str


@dataclass(frozen=True)
class Found:
    """The best settings.

    Attributes:
        settings: what differs from the defaults.
        score: what they are worth.
        tried: how many different merges were looked at.
    """

    settings: Settings
    score: float
    tried: int


def search(method: str, most: int, worth: Callable[[Settings], Worth]) -> Found:
    """From the defaults, one parameter after the other: keep what is best, go on to the next.

    Settings that make a merge which was seen before are not counted, and such a parameter is left at once: much of what
    can be set has no say unless something else is set.

    Args:
        method: whose parameters.
        most: merges that are looked at, the defaults' among them.
        worth: of settings.
    """
    first = worth({})
    best, seen = Found({}, first.score, 1), {first.merge}
    for choice in choices(method):
        held = best.settings
        for value in choice.values:
            if len(seen) == most:
                return best
            asked = {**held, choice.name: value}
            found = worth(asked)
            if found.merge in seen:
                break
            seen.add(found.merge)
            better = found.score > best.score
            best = Found(asked if better else best.settings, max(found.score, best.score), len(seen))
    return best
