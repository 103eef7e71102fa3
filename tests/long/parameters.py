"""Draws a method's parameters from what the method declares, so that a new method, or a new option, is drawn too."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.long.cases import Auxiliary
from tests.long.values import Rng, Shape, stored
from weft.algorithms.elections import ELECTIONS
from weft.algorithms.method import Method, Tensors

_NUMBERS = (1.0, 1.0, 0.5, 0.3, 2.0, -1.0, -0.7, 0.0)
_NAMED: Mapping[tuple[str, str], Sequence[str]] = {("ties", "elect"): tuple(ELECTIONS)}
"""A parameter that is tensors or a name declares its names in words only."""


@dataclass(frozen=True)
class Tastes:
    """Two streams of chance: what decides which machine code is made (few cases share it), and all else.

    Attributes:
        options: for what is compiled in.
        numbers: for the rest.
    """

    options: Rng
    numbers: Rng


def takes_tensors(kind: type[Method], name: str) -> bool:
    """Whether a parameter is itself tensors."""
    info = kind.model_fields[name]
    inner = [mark for part in typing.get_args(info.annotation) for mark in typing.get_args(part)]
    return any(isinstance(mark, Tensors) for mark in (*info.metadata, *inner))


def draw_options(kind: type[Method], rng: Rng) -> dict[str, Any]:
    """Truth values and choices among names, some of them left at their default."""
    properties = kind.model_json_schema()["properties"]
    drawn: dict[str, Any] = {}
    for name in kind.model_fields:
        names = _NAMED.get((kind.name, name)) or properties[name].get("enum")
        if rng.random() < 0.3:
            continue
        if names:
            drawn[name] = names[rng.integers(len(names))]
        elif properties[name].get("type") == "boolean":
            drawn[name] = bool(rng.integers(2))
    return drawn


def draw_tensors(
    kind: type[Method], shapes: Mapping[str, Shape], tied: Mapping[str, str], models: int, tastes: Tastes
) -> dict[str, Any]:
    """Parameters that are tensors: one for each model, like a Fisher, or one for all, like signs."""
    drawn: dict[str, Any] = {}
    for name in filter(lambda field: takes_tensors(kind, field), kind.model_fields):
        if kind.is_per_model(name):
            given = [tastes.options.random() < 0.8 for _ in range(models)]
            drawn[name] = [_importance(shapes, tied, tastes) if some else None for some in given]
        elif tastes.options.random() < 0.15:
            drawn[name] = _signs(shapes, tied, tastes)
    return drawn


def _importance(shapes: Mapping[str, Shape], tied: Mapping[str, str], tastes: Tastes) -> Auxiliary:
    """As a Fisher: not negative, skewed, some of it exactly zero."""
    rng, dtype = tastes.numbers, ("float32", "float32", "float64", "bfloat16")[tastes.options.integers(4)]
    size = 10.0 ** rng.integers(-9, 1)
    tensors = {n: rng.standard_normal(s) ** 4 * (rng.random(s) > 0.2) * size for n, s in shapes.items()}
    return _auxiliary(tensors, tied, dtype, rng)


def _signs(shapes: Mapping[str, Shape], tied: Mapping[str, str], tastes: Tastes) -> Auxiliary:
    tensors = {n: tastes.numbers.integers(-1, 2, s) for n, s in shapes.items()}
    return _auxiliary(tensors, tied, "float32", tastes.numbers)


def _auxiliary(tensors: dict[str, Any], tied: Mapping[str, str], dtype: str, rng: Rng) -> Auxiliary:
    tensors |= {alias: tensors[first] for alias, first in tied.items() if first in tensors}
    return Auxiliary({name: stored(np.asarray(t), dtype) for name, t in tensors.items()}, bool(rng.integers(2)))


def draw_numbers(kind: type[Method], models: Sequence[str], rng: Rng, often: float) -> dict[str, Any]:
    """Numbers, each given in one of the ways that a recipe allows, or left at its default."""
    drawn = {}
    for name, schema in kind.model_json_schema()["properties"].items():
        if not takes_tensors(kind, name) and rng.random() < often:
            if schema.get("type") == "number":
                drawn[name] = draw_number(schema, rng)
            elif schema.get("items", {}).get("type") == "number":
                drawn[name] = _per_model(schema["items"], models, rng)
    return drawn


def draw_number(schema: Mapping[str, Any], rng: Rng) -> float:
    """A number within its declared bounds, which are often drawn themselves."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        choices = (low, high, 0.2 * high + 0.8 * low, 0.5 * (low + high), float(rng.uniform(low, high)))
        return float(choices[rng.integers(len(choices))])
    value = _NUMBERS[rng.integers(len(_NUMBERS))] if rng.random() < 0.7 else float(np.round(rng.standard_normal(), 3))
    if low is not None:
        value = low + abs(value) * (1.0 if rng.random() < 0.8 else 1e-6)
    return float(value if high is None else min(value, high))


def _per_model(schema: Mapping[str, Any], models: Sequence[str], rng: Rng) -> Any:
    """One value, a list in order, or a map by name with a default."""
    way = rng.integers(3)
    if way == 0:
        return draw_number(schema, rng)
    if way == 1:
        return [draw_number(schema, rng) for _ in models]
    some = [name for name in models if rng.random() < 0.5]
    return {**{name: draw_number(schema, rng) for name in some}, "default": draw_number(schema, rng)}


def draw_own(kind: type[Method], rng: Rng) -> dict[str, Any]:
    """Numbers that stand beside one model's path."""
    properties = kind.model_json_schema()["properties"]
    names = [n for n in properties if kind.is_per_model(n) and not takes_tensors(kind, n)]
    return {n: draw_number(properties[n]["items"], rng) for n in names if rng.random() < 0.3}
