"""Draws a method's parameters from what the method declares, so that a new method, or a new option, is drawn too."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tests.long.cases import Auxiliary, Step
from tests.long.values import Rng, Shape, stored
from weft.algorithms.correction import Correction
from weft.algorithms.describing import together
from weft.algorithms.elections import ELECTIONS
from weft.algorithms.method import Method, Tensors
from weft.algorithms.sparsifier import Sparsifier

_NUMBERS = (1.0, 1.0, 0.5, 0.3, 2.0, -1.0, -0.7, 0.0)
_NAMED: Mapping[tuple[str, str], Sequence[Any]] = {
    ("ties", "elect"): tuple(ELECTIONS),
    ("mats", "start"): ("average", "base"),
}
"""A parameter that is tensors or a name declares its names in words only."""
_FITTING: Mapping[tuple[str, str], Sequence[float]] = {
    ("della", "density"): (0.3, 0.5, 0.7, 1.0),
    ("della", "epsilon"): (0.0, 0.02, 0.1, 0.25),
    ("slerp", "straight"): (0.0, 0.9, 0.9995, 1.0),
    ("mats", "tolerance"): (0.0, 1e-12, 1e-5, 0.1),
    ("mats", "iterations"): (0, 1, 3, 100),
    ("wudi", "iterations"): (0, 1, 5, 40),
    ("wudi", "rate"): (0.0, 1e-5, 1e-3),
    ("consensus", "agree"): (0, 1, 2, 3),
}
"""Numbers that bounds alone do not tell: they go together, take little time, or something happens between them."""
_PATTERNS = ("*attn*", "*weight", "embed*", "layers.1*")
_LARGEST_GRAM = 200
"""The side of a Gram matrix; layers with more inputs have none, and are averaged."""


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
    """Truth values, choices among names and patterns of names, some of them left at their default."""
    properties = kind.model_json_schema()["properties"]
    drawn: dict[str, Any] = {}
    for name in kind.model_fields:
        choices = _choices(kind, name, properties[name])
        if rng.random() >= 0.3 and choices:
            drawn[name] = choices[rng.integers(len(choices))]
        elif rng.random() < 0.15 and properties[name].get("items") == {"type": "string"}:
            drawn[name] = [_PATTERNS[rng.integers(len(_PATTERNS))]]
    return drawn


def _choices(kind: type[Method], name: str, schema: Mapping[str, Any]) -> Sequence[Any]:
    """What a parameter may be, if that can be told one by one."""
    if (kind.name, name) in _NAMED:
        return _NAMED[kind.name, name]
    found: list[Any] = []
    for part in (schema, *schema.get("anyOf", ())):
        found += [*part.get("enum", ()), *([part["const"]] if "const" in part else ())]
        found += [False, True] if part.get("type") == "boolean" else []
    return found


def draw_tensors(kind: type[Method], skeleton: Beside, models: int, tastes: Tastes, often: float) -> dict[str, Any]:
    """Parameters that are tensors: one for each model, like a Fisher, or one for all, like signs.

    Args:
        kind: whose.
        skeleton: the tensors that the models hold.
        models: how many there are.
        tastes: chance.
        often: how often a method has those that it may have; of those that cannot be together, some.
    """
    drawn: dict[str, Any] = {}
    fields = [name for name in kind.model_fields if takes_tensors(kind, name)]
    each = list(tastes.options.permutation([name for name in fields if kind.is_per_model(name)]))
    some = tastes.options.random() < often
    for name in map(str, together(kind, each) if some else ()):
        all_or_none = name not in ("fisher", "mask") or kind.name == "mats"
        given = [all_or_none or tastes.options.random() < 0.8 for _ in range(models)]
        made = _MADE.get(name, _importance)
        drawn[name] = [made(skeleton, tastes) if given_to else None for given_to in given]
    for name in fields:
        if not kind.is_per_model(name) and tastes.options.random() < 0.15:
            drawn[name] = _MADE.get(name, _importance)(skeleton, tastes)
    return drawn


@dataclass(frozen=True)
class Beside:
    """The tensors beside which others are drawn.

    Attributes:
        shapes: of floats.
        tied: for a name that is another's tensor, that other one.
        transposed: patterns of weights that are stored as inputs x outputs.
    """

    shapes: Mapping[str, Shape]
    tied: Mapping[str, str]
    transposed: Sequence[str] = ()


def _importance(of: Beside, tastes: Tastes) -> Auxiliary:
    """As a Fisher: not negative, skewed, some of it exactly zero."""
    rng, dtype = tastes.numbers, ("float32", "float32", "float64", "bfloat16")[tastes.options.integers(4)]
    size = 10.0 ** rng.integers(-9, 1)
    tensors = {n: rng.standard_normal(s) ** 4 * (rng.random(s) > 0.2) * size for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, dtype, rng)


def _signs(of: Beside, tastes: Tastes) -> Auxiliary:
    tensors = {n: tastes.numbers.integers(-1, 2, s) for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, "float32", tastes.numbers)


def _mask(of: Beside, tastes: Tastes) -> Auxiliary:
    tensors = {n: tastes.numbers.random(s) < 0.5 for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, "float32", tastes.numbers)


def _gradient(of: Beside, tastes: Tastes) -> Auxiliary:
    tensors = {n: tastes.numbers.standard_normal(s) / 100 for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, "float32", tastes.numbers)


def _worth(of: Beside, tastes: Tastes) -> Auxiliary:
    """How much parts matter: for each parameter a number, or one for all of a tensor."""
    single = tastes.options.random() < 0.5
    tensors = {n: tastes.numbers.standard_normal(() if single else s) for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, "float32", tastes.numbers)


def _gram(of: Beside, tastes: Tastes) -> Auxiliary:
    """What layers would tell that are fed with rows of chance: inputs, and gradients of outputs. Some inputs are dead,
    and sometimes there are fewer rows than inputs."""
    rng = tastes.numbers
    tensors: dict[str, Any] = {}
    for name, shape in of.shapes.items():
        if len(shape) in (1, 2) and max(shape) <= _LARGEST_GRAM and min(shape) > 0:
            outputs, inputs = (1, *shape)[-2:]
            turned = len(shape) == 2 and any(fnmatchcase(name, pattern) for pattern in of.transposed)
            inputs, outputs = (outputs, inputs) if turned else (inputs, outputs)
            tensors |= {name: _products(inputs, rng), f"{name}@gradients": _products(outputs, rng)}
    tied = {alias + end: first + end for alias, first in of.tied.items() for end in ("", "@gradients")}
    return _auxiliary(tensors, tied, ("float32", "float64")[tastes.options.integers(2)], rng)


def _products(side: int, rng: Rng) -> Any:
    rows = 3 * side if rng.random() < 0.7 else side // 2 + 1
    fed = rng.standard_normal((rows, side)) * (rng.random(side) < 0.95) * 10.0 ** rng.uniform(-1, 1, side)
    return fed.T @ fed / rows


def _merge(of: Beside, tastes: Tastes) -> Auxiliary:
    tensors = {n: tastes.numbers.standard_normal(s) for n, s in of.shapes.items()}
    return _auxiliary(tensors, of.tied, "float32", tastes.numbers)


_MADE: Mapping[str, Callable[[Beside, Tastes], Auxiliary]] = {
    "elect": _signs,
    "mask": _mask,
    "gram": _gram,
    "gradient": _gradient,
    "importance": _worth,
    "start": _merge,
}
"""By the parameter's name; anything else is like a Fisher."""


def _auxiliary(tensors: dict[str, Any], tied: Mapping[str, str], dtype: str, rng: Rng) -> Auxiliary:
    tensors |= {alias: tensors[first] for alias, first in tied.items() if first in tensors}
    return Auxiliary({name: stored(np.asarray(t), dtype) for name, t in tensors.items()}, bool(rng.integers(2)))


def draw_numbers(kind: type[Method], models: Sequence[str], rng: Rng, often: float) -> dict[str, Any]:
    """Numbers, each given in one of the ways that a recipe allows, or left at its default."""
    drawn = {}
    for name, schema in kind.model_json_schema()["properties"].items():
        if not takes_tensors(kind, name) and rng.random() < often:
            fitting = _FITTING.get((kind.name, name), ())
            if schema.get("type") in ("number", "integer"):
                drawn[name] = draw_number(schema, rng, fitting)
            elif schema.get("items", {}).get("type") in ("number", "integer"):
                drawn[name] = _per_model(schema["items"], models, rng, fitting)
    return drawn


def draw_step(
    kind: type[Sparsifier] | type[Correction], skeleton: Beside, models: Sequence[str], tastes: Tastes
) -> Step:
    """A step before or after a method, with the parameters that it has there."""
    drawn = {**draw_options(kind, tastes.options), **draw_numbers(kind, models, tastes.numbers, 0.5)}
    drawn |= draw_tensors(kind, skeleton, len(models), tastes, 0.3)
    known = kind.chained_fields()
    return {"method": kind.name, **{name: value for name, value in drawn.items() if name in known}}


def draw_number(schema: Mapping[str, Any], rng: Rng, fitting: Sequence[float] = ()) -> float:
    """A number within its declared bounds, which are often drawn themselves; one of the `fitting`, if any are named."""
    if fitting:
        return fitting[rng.integers(len(fitting))]
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if schema["type"] == "integer":
        return int(rng.integers(low or 0, 5))
    if low is not None and high is not None:
        choices = (low, high, 0.2 * high + 0.8 * low, 0.5 * (low + high), float(rng.uniform(low, high)))
        return float(choices[rng.integers(len(choices))])
    value = _NUMBERS[rng.integers(len(_NUMBERS))] if rng.random() < 0.7 else float(np.round(rng.standard_normal(), 3))
    if low is not None:
        value = low + abs(value) * (1.0 if rng.random() < 0.8 else 1e-6)
    if "exclusiveMinimum" in schema:
        value = value or 1.0
    return float(value if high is None else min(value, high))


def _per_model(schema: Mapping[str, Any], models: Sequence[str], rng: Rng, fitting: Sequence[float]) -> Any:
    """One value, a list in order, or a map by name with a default."""
    way = rng.integers(3)
    if way == 0:
        return draw_number(schema, rng, fitting)
    if way == 1:
        return [draw_number(schema, rng, fitting) for _ in models]
    some = [name for name in models if rng.random() < 0.5]
    return {**{name: draw_number(schema, rng, fitting) for name in some}, "default": draw_number(schema, rng, fitting)}


def draw_own(kind: type[Method], rng: Rng) -> dict[str, Any]:
    """Numbers that stand beside one model's path."""
    properties = kind.model_json_schema()["properties"]
    names = [n for n in properties if kind.is_per_model(n) and not takes_tensors(kind, n)]
    return {
        n: draw_number(properties[n]["items"], rng, _FITTING.get((kind.name, n), ()))
        for n in names
        if rng.random() < 0.3
    }
