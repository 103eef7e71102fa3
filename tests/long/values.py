"""Tensors for soak cases: ordinary ones, and those that rounding, ranking and voting find hard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from tests.long.cases import FLOAT8, Array

Rng = np.random.Generator
Shape = tuple[int, ...]

BLOCK = 16384
"""Elements of a canonical block: sums are cut there, and tiles begin there."""

_SMALL: tuple[Shape, ...] = ((), (1,), (1, 1), (0,), (0, 3), (3, 0), (2, 1, 0), (7,), (5, 8), (3, 4, 5), (97, 50))
_EDGES: tuple[Shape, ...] = ((BLOCK - 1,), (BLOCK,), (BLOCK + 1,), (128, 128), (2 * BLOCK + 1,), (3, 5461), (2, BLOCK))
_LONGEST: tuple[Shape, ...] = ((16 * BLOCK - 1,), (16 * BLOCK,), (16 * BLOCK + 1,))
"""Around the longest tile."""


def draw_shape(rng: Rng, room: int) -> Shape:
    """A shape of no more than `room` elements."""
    kind = rng.random()
    shapes = _LONGEST if kind > 0.97 else _EDGES if kind > 0.6 else _SMALL
    shape = shapes[rng.integers(len(shapes))]
    return shape if np.prod(shape) <= room else _SMALL[rng.integers(len(_SMALL))]


def _gaussian(rng: Rng, shape: Shape) -> Array:
    return rng.standard_normal(shape)


def _grid(rng: Rng, shape: Shape) -> Array:
    """Few values, so that magnitudes tie and sums cancel exactly."""
    return rng.integers(-3, 4, shape) / 64


def _sparse(rng: Rng, shape: Shape) -> Array:
    return rng.standard_normal(shape) * (rng.random(shape) < 0.1)


def _zeros(rng: Rng, shape: Shape) -> Array:
    """Zeros of both signs."""
    return np.where(rng.random(shape) < 0.5, -0.0, 0.0)


def _tiny(rng: Rng, shape: Shape) -> Array:
    """Around the smallest numbers of float32 and bfloat16; float16 makes them zero."""
    return rng.integers(-40, 41, shape) * 2.0**-133


def _huge(rng: Rng, shape: Shape) -> Array:
    """So large that squares are still finite in float32."""
    return rng.standard_normal(shape) * 1e17


def _wide(rng: Rng, shape: Shape) -> Array:
    """Over twelve orders of magnitude."""
    return rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 5, shape)


STYLES: Mapping[str, Callable[[Rng, Shape], Array]] = MappingProxyType(
    {
        "gaussian": _gaussian,
        "grid": _grid,
        "sparse": _sparse,
        "zeros": _zeros,
        "tiny": _tiny,
        "huge": _huge,
        "wide": _wide,
    }
)
_OFTEN = (*["gaussian"] * 6, *["grid"] * 3, "sparse", "zeros", "tiny", "huge", "wide")


def draw_base(rng: Rng, shape: Shape) -> Array:
    """The numbers of a base, float64."""
    return STYLES[_OFTEN[rng.integers(len(_OFTEN))]](rng, shape) if rng.random() < 0.3 else _gaussian(rng, shape)


def draw_change(rng: Rng, shape: Shape) -> Callable[[Rng], Array]:
    """A kind of change from the base, drawn anew for each model."""
    style = STYLES[_OFTEN[rng.integers(len(_OFTEN))]]
    length = (1.0, 0.1, 0.01)[rng.integers(3)]
    return lambda fresh: style(fresh, shape) * length


def stored(values: Array, dtype: str) -> Array:
    """Numbers rounded to a format, none of them out of its range."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    largest = float(ml_dtypes.finfo(kind).max)
    return np.asarray(np.clip(values, -largest, largest).astype(np.float32 if dtype in FLOAT8 else kind).astype(kind))


def draw_scale(rng: Rng, shape: Shape) -> Array:
    """Of a float8 matrix: one for all of it, or one for each row."""
    rows: Shape = (shape[0], 1) if rng.random() < 0.5 else ()
    return np.asarray(np.exp(rng.uniform(-3, 0, rows)), np.float32)


def draw_integers(rng: Rng, shape: Shape) -> Array:
    """A buffer that passes through."""
    kinds: tuple[Any, ...] = (np.int64, np.int32, np.uint8, np.bool_)
    return rng.integers(0, 2, shape).astype(kinds[rng.integers(len(kinds))])
