"""Between the bits of a checkpoint and the numbers a method sees: one decode and one encode for each format.

Decoding is exact. Encoding rounds once, to nearest with ties to even; from float64 to a 16-bit format it goes through
float32 *rounded to odd*, which makes the second rounding give what a single one would have given.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import platform

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.extending import intrinsic

from weft.kernels.making import bitcast

_INLINE = {"forceinline": True, "error_model": "numpy", "nogil": True}
_U16, _U32, _U64 = np.uint16, np.uint32, np.uint64
_F32, _F64 = np.float32, np.float64


_float_of = bitcast(types.uint32, types.float32, ir.FloatType())
_bits_of = bitcast(types.float32, types.uint32, ir.IntType(32))


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


def _converts_half() -> bool:
    """Whether the processor that numba compiles for converts float16: all ARMs do, and x86 with F16C.

    An x86 of before 2012, and one that a virtual machine pretends to have, does not. LLVM would then call a function
    that is not there, and end the process.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    if config.CPU_FEATURES is not None:
        return "+f16c" in config.CPU_FEATURES
    return bool(config.CPU_NAME != "generic" and binding.get_host_cpu_features().get("f16c", False))


@njit(**_INLINE)
def widen_half_in_steps(bits):
    """float16 to float32 without the processor's help: exact, since a power of two brings the exponent in place."""
    shifted = _U32(_U32(bits & _U16(0x7FFF)) << _U32(13))
    number = _bits_of(_float_of(shifted) * _F32(2.0**112))
    if bits & _U16(0x7C00) == _U16(0x7C00):  # infinite or not a number
        number = _U32(shifted | _U32(0x7F800000))
    return _float_of(_U32(number | _U32(_U32(bits & _U16(0x8000)) << _U32(16))))


@njit(**_INLINE)
def narrow_half_in_steps(value):
    """float32 to float16 without the processor's help: to nearest even, and NaN stays NaN."""
    sign = _U32(_bits_of(value) >> _U32(16)) & _U32(0x8000)
    size = _bits_of(value) & _U32(0x7FFFFFFF)
    # below 2^-14 a sum with 0.5, whose last bit is worth the smallest float16, rounds as that does
    narrow = _U32(_bits_of(_F32(_float_of(size) + _F32(0.5))) - _U32(0x3F000000))
    if size >= _U32(0x38800000):
        narrow = _U32(size - _U32(0x38000000) + _U32(0xFFF) + ((size >> _U32(13)) & _U32(1))) >> _U32(13)
    if size >= _U32(0x477FF000):  # 65520 and more
        narrow = _U32(0x7C00)
    if size > _U32(0x7F800000):
        narrow = _U32(0x7E00)
    return _U16(narrow | sign)


if not _converts_half():
    _widen_half, _narrow_half = widen_half_in_steps, narrow_half_in_steps


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
    """The processor's own conversion, if it has one."""
    return _widen_half(bits)


@njit(**_INLINE)
def encode_float16(value):
    """The processor's own conversion, if it has one; it rounds to nearest even."""
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
