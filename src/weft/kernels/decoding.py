"""Stored numbers as float64, for the few places that look at a handful of them outside a compiled loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.kernels.dtypes import BFLOAT16, FLOAT16, DType

Array = np.ndarray[Any, Any]


def decoded(values: Array, dtype: DType) -> Array:
    """Numbers in storage format as float64.

    Args:
        values: of the storage type of a floating-point `dtype`.
        dtype: how to read them.

    Example:
        >>> decoded(np.array([0x3F80], np.uint16), BFLOAT16)
        array([1.])
    """
    if dtype is BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype is FLOAT16:
        return values.view(np.float16).astype(np.float64)
    return values.astype(np.float64)


def bits_of(values: Array) -> Array:
    """Stored floating-point numbers as unsigned integers of their width."""
    return values.view(np.dtype(f"uint{8 * values.itemsize}"))


def below_zero(values: Array) -> Array:
    """Which stored floating-point numbers have their sign bit set and are not -0.

    Args:
        values: of the storage type of a floating-point format, shape [n].

    Example:
        >>> below_zero(np.array([1.0, -0.0, -2.0], np.float32))
        array([False, False,  True])
    """
    bits = bits_of(values)
    negative: Array = bits > bits.dtype.type(1 << (8 * values.itemsize - 1))
    return negative
