"""Every registered method, with options that take it through all its code; data whose bits no library decides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

import weft
from tests.long.cases import FLOAT8, Array, Model, State
from tests.long.parameters import takes_tensors
from tests.long.values import BLOCK, Shape, stored
from weft.algorithms.describing import together

OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "linear": {"weighted": {"weight": [0.3, -0.5, 0.7], "normalize": False}},
        "task_arithmetic": {"weighted": {"weight": [1, -0.5, 2], "scale": 0.3}},
        "ties": {
            "tensor": {"scope": "tensor", "density": [0.1, 0.5, 0.9]},
            "norm": {"trim": "norm", "density": 0.7, "elect": "normmass", "combine": "sum"},
            "deviation": {"trim": "deviation", "elect": "normfrac", "combine": "median", "weight": [0.3, 0.5, 0.7]},
            "frequency": {"elect": "frequency", "combine": "plain_mean", "weight": [1, -1, 0.5]},
            "none": {"elect": "none", "combine": "magnitude", "scope": "tensor"},
        },
        "fisher": {"plain": {"normalize": False, "favor_target": False, "floor": 1e-3, "weight": [0.2, 0.3, 0.5]}},
        "dare": {
            "drawn": {"mask": None, "drop": [0.2, 0.5, 0.9], "seed": 5},
            "l1": {"mask": None, "rescale": "l1"},
            "magnitude": {"mask": None, "select": "magnitude", "rescale": False},
        },
        "della": {
            "drawn": {"mask": None, "density": [0.3, 0.7, 1.0], "epsilon": 0.2, "weight": [1, 0.5, 2]},
            "l1": {"mask": None, "rescale": "l1", "elect": False, "combine": "sum"},
        },
        "apl": {"importance": {"gradient": None, "partition": "tensor", "weight_temperature": 0.001}},
        "breadcrumbs": {
            "last": {"density": 0.5, "gamma": [0.1, 0.2, 0.3], "remove_first": False},
            "tensor": {"density": 0.5, "gamma": 0.1, "scope": "tensor"},
        },
    }
)
"""Beside the defaults, with which every method is run; a new method needs no line here."""

VARIANTS = tuple((name, way) for name in weft.methods() for way in ("default", *OPTIONS.get(name, {})))

SIZES: Mapping[str, Mapping[str, Shape]] = MappingProxyType(
    {
        "small": {"a.weight": (7, 5), "b.bias": (6,), "c.scalar": (), "d.empty": (0, 3), "e.one": (1, 1)},
        "edges": {"a.weight": (128, 128), "b.bias": (BLOCK - 1,), "c.bias": (BLOCK + 1,)},
        "tiles": {"a.weight": (37, 1801), "b.bias": (2 * BLOCK,), "c.bias": (3,)},
    }
)


def chance(stream: int, size: int) -> Array:
    """Numbers in [-1, 1), multiples of 2^-23: a hash of stream and index, so that no library's generator decides them.

    The mixing is that of splitmix64.
    """
    start = np.uint64((stream + 1) * 0x632BE59BD9B4E019 % 2**64)
    with np.errstate(over="ignore"):
        z = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0


def checkpoints(shapes: Mapping[str, Shape], dtype: str, tied: Mapping[str, str] | None = None) -> list[Model]:
    """A base and three models: half of every change is coarse, so that magnitudes tie.

    Args:
        shapes: by name.
        dtype: a number format; or `mixed`, where each model has another.
        tied: names that are another tensor.
    """
    formats = ("float32", "bfloat16", "float16", "float32") if dtype == "mixed" else (dtype,) * 4
    return [_checkpoint(k, formats[k], shapes, dict(tied or {})) for k in range(4)]


def _checkpoint(k: int, dtype: str, shapes: Mapping[str, Shape], tied: dict[str, str]) -> Model:
    tensors: State = {}
    scales: State = {}
    for place, (name, shape) in enumerate(shapes.items()):
        size = int(np.prod(shape))
        change = chance(100 * k + place, size) / 8
        change = np.where(np.arange(size) % 2 == 0, np.round(change * 64) / 64, change)
        values = (chance(place, size) + (change if k else 0.0)).reshape(shape)
        coded = dtype in FLOAT8 and len(shape) == 2 and size > 0
        if coded:
            scales[name] = np.asarray(0.375, np.float32)
        kind = dtype if coded or dtype not in FLOAT8 else "bfloat16"
        tensors[name] = stored(values / scales[name] if coded else values, kind)
    tensors |= {alias: tensors[first] for alias, first in tied.items()}
    return Model(f"m{k}" if k else "base", tensors, scales, tied)


def as_many(name: str, models: list[Model]) -> list[Model]:
    """The base, and as many models as a method takes."""
    return models[: 1 + min(weft.method(name).models[-1], len(models) - 1)]


def parameters(name: str, way: str, models: list[Model]) -> dict[str, Any]:
    """The parameters of a variant; whoever wants tensors for each model gets Fishers, or Gram matrices."""
    chosen = dict(OPTIONS.get(name, {}).get(way, {}))
    kind = weft.method(name)
    files = [f for f in kind.model_fields if f not in chosen and takes_tensors(kind, f) and kind.is_per_model(f)]
    for field in together(kind, files):
        made = _gram if field == "gram" else _importance
        chosen[field] = [made(k, models[0]) for k in range(1, len(models))]
    return chosen


def _gram(k: int, like: Model) -> State:
    """What a layer that is fed with forty rows of chance would tell."""
    matrices = {name: tensor.shape[1] for name, tensor in like.tensors.items() if tensor.ndim == 2 and tensor.size}
    fed = {name: chance(2000 + k, 40 * inputs).reshape(40, inputs) for name, inputs in matrices.items()}
    return {name: (x.T @ x / 40).astype(np.float32) for name, x in fed.items()}


def _importance(k: int, like: Model) -> State:
    squares = {name: np.maximum(chance(1000 + k, t.size), 0.0) ** 2 for name, t in like.tensors.items()}
    return {name: (s * s * 1e-3).astype(np.float32).reshape(like.tensors[name].shape) for name, s in squares.items()}
