"""Between the bits of a checkpoint and the numbers a method sees: one decode and one encode for each format.

Decoding is exact. Encoding rounds once, to nearest with ties to even; from float64 to a 16-bit format it goes through
float32 *rounded to odd*, which makes the second rounding give what a single one would have given.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_INLINE = {"forceinline": True, "error_model": "numpy", "nogil": True}
_U16, _U32, _U64 = np.uint16, np.uint32, np.uint64
_F32, _F64 = np.float32, np.float64


def _bitcast(source, target, llvm_type):
    @intrinsic
    def cast(typing_context, value):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], llvm_type)

        return target(source), generate

    return cast


_float_of = _bitcast(types.uint32, types.float32, ir.FloatType())
_bits_of = _bitcast(types.float32, types.uint32, ir.IntType(32))


@intrinsic
def _widen_half(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrow_half(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@njit(**_INLINE)
def _round_to_odd(value):
    near = _F32(value)
    bits = _bits_of(near)
    if _F64(near) != value and np.isfinite(near):
        if abs(_F64(near)) > abs(value):
            bits = _U32(bits - _U32(1))
        bits = _U32(bits | _U32(1))
    return _float_of(bits)


@njit(**_INLINE)
def decode_bfloat16(bits):
    """bfloat16 is the upper half of float32."""
    return _float_of(_U32(_U32(bits) << _U32(16)))


@njit(**_INLINE)
def encode_bfloat16(value):
    """Round float32 to nearest even at the sixteenth bit; NaN stays NaN."""
    bits = _bits_of(value)
    rounded = _U32(bits + _U32(0x7FFF) + ((bits >> _U32(16)) & _U32(1)))
    if value != value:
        rounded = _U32(bits | _U32(0x400000))
    return _U16(rounded >> _U32(16))


@njit(**_INLINE)
def decode_float16(bits):
    """The processor's own conversion."""
    return _widen_half(bits)


@njit(**_INLINE)
def encode_float16(value):
    """The processor's own conversion, which rounds to nearest even."""
    return _narrow_half(value)


@njit(**_INLINE)
def decode_float32(value):
    """float32 is stored as itself."""
    return value


@njit(**_INLINE)
def encode_float32(value):
    """Rounds when the merge computes in float64."""
    return _F32(value)


@njit(**_INLINE)
def decode_float64(value):
    """float64 is stored as itself."""
    return value


@njit(**_INLINE)
def encode_float64(value):
    """Exact."""
    return _F64(value)


@njit(**_INLINE)
def encode_bfloat16_once(value):
    """Round float64 to bfloat16, once."""
    return encode_bfloat16(_round_to_odd(value))


@njit(**_INLINE)
def encode_float16_once(value):
    """Round float64 to float16, once."""
    return encode_float16(_round_to_odd(value))
