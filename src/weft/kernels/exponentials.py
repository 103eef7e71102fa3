"""The exponential functions of the scalar language, compiled, from additions, multiplications and shifts alone.

They are the same bits wherever an element stands and on whatever machine: IEEE 754 rounds what they are made of the one
right way, and nothing of it is left to a library, whose vector functions may differ from its scalar ones.

A number x is k log 2 + r with |r| at most half of log 2, and e^r - 1 is its Taylor series. What is returned is within 2
units in the last place of e^x, within 4 of tanh x.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types

from weft.kernels.making import bitcast

_INLINE = {"forceinline": True, "error_model": "numpy", "nogil": True}


_single = bitcast(types.int32, types.float32, ir.FloatType())
_double = bitcast(types.int64, types.float64, ir.DoubleType())

_F32, _F64, _I32, _I64 = np.float32, np.float64, np.int32, np.int64


@njit(**_INLINE)
def _power_float32(k):
    """2^k for a whole number k from -126 to 127."""
    return _single(_I32((_I32(k) + _I32(127)) << _I32(23)))


@njit(**_INLINE)
def _power_float64(k):
    """2^k for a whole number k from -1022 to 1023."""
    return _double(_I64((_I64(k) + _I64(1023)) << _I64(52)))


@njit(**_INLINE)
def _series_float32(x):
    """For x = k log 2 + r: k, as a float, and e^r - 1."""
    k = (x * _F32(1.4426950408889634) + _F32(12582912.0)) - _F32(12582912.0)  # 1.5 * 2^23: rounds to a whole number
    r = (x - k * _F32(0.693359375)) - k * _F32(-2.12194440054690583e-4)
    p = _F32(1 / 5040) + r * _F32(1 / 40320)
    p = _F32(1 / 720) + r * p
    p = _F32(1 / 120) + r * p
    p = _F32(1 / 24) + r * p
    p = _F32(1 / 6) + r * p
    p = _F32(0.5) + r * p
    return k, r + r * r * p


@njit(**_INLINE)
def _series_float64(x):
    """For x = k log 2 + r: k, as a float, and e^r - 1."""
    k = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0  # 1.5 * 2^52
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    p = 1 / 6227020800 + r * (1 / 87178291200)
    p = 1 / 479001600 + r * p
    p = 1 / 39916800 + r * p
    p = 1 / 3628800 + r * p
    p = 1 / 362880 + r * p
    p = 1 / 40320 + r * p
    p = 1 / 5040 + r * p
    p = 1 / 720 + r * p
    p = 1 / 120 + r * p
    p = 1 / 24 + r * p
    p = 1 / 6 + r * p
    p = 0.5 + r * p
    return k, r + r * r * p


@njit(**_INLINE)
def exp_float32(x):
    """e^x; the power of two in two halves, so that what is nearly 0 or infinite comes out right."""
    within = min(max(x, _F32(-110.0)), _F32(90.0))
    k, less = _series_float32(within)
    half = _I32(k) >> _I32(1)
    grown = ((less + _F32(1.0)) * _power_float32(half)) * _power_float32(_I32(k) - half)
    return grown if x == x else x


@njit(**_INLINE)
def exp_float64(x):
    """The same in double precision."""
    within = min(max(x, -760.0), 711.0)
    k, less = _series_float64(within)
    half = _I64(k) >> _I64(1)
    grown = ((less + 1.0) * _power_float64(half)) * _power_float64(_I64(k) - half)
    return grown if x == x else x


@njit(**_INLINE)
def tanh_float32(x):
    """(e^2x - 1) / (e^2x + 1), from e^2|x| - 1; beyond 10 it is 1."""
    within = min(abs(x), _F32(10.0))
    k, less = _series_float32(within + within)
    power = _power_float32(_I32(k))
    grown = less * power + (power - _F32(1.0))
    size = grown / (grown + _F32(2.0))
    return (size if x >= _F32(0.0) else -size) if x == x else x


@njit(**_INLINE)
def tanh_float64(x):
    """The same in double precision; beyond 20 it is 1."""
    within = min(abs(x), 20.0)
    k, less = _series_float64(within + within)
    power = _power_float64(_I64(k))
    grown = less * power + (power - 1.0)
    size = grown / (grown + 2.0)
    return (size if x >= 0.0 else -size) if x == x else x
