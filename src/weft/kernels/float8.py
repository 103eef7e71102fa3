"""One-byte floating-point formats: a table of the 256 numbers, and a range of a matrix decoded and scaled by blocks.

Every element is `table[code] * scale`, one float32 product, so that its bits depend on the element and never on the
range that it is read in. A code has at most four significant bits: the product is the exact one, rounded once.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from weft.kernels.dtypes import DType
from weft.kernels.native import Array, native


def _numbers(exponent: int, fraction: int, bias: int) -> Array:
    """A sign, then so many bits of exponent and of fraction; the lowest exponent holds the subnormal numbers."""
    codes = np.arange(256)
    powers = codes >> fraction & (1 << exponent) - 1
    parts = (codes & (1 << fraction) - 1) / (1 << fraction)
    sizes = np.where(powers == 0, parts * 2.0 ** (1 - bias), (1 + parts) * np.exp2(powers - bias))
    return np.where(codes & 0x80, -sizes, sizes)


def _e4m3fn() -> Array:
    """No infinity, and one NaN for each sign."""
    values = _numbers(4, 3, 7)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _e5m2() -> Array:
    """Infinity and NaN as in float16."""
    values = _numbers(5, 2, 15)
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def _unsigned_zero(exponent: int, fraction: int, bias: int) -> Array:
    """The `fnuz` formats: no infinity, one zero, and what would be its negative is the only NaN."""
    values = _numbers(exponent, fraction, bias)
    values[0x80] = np.nan
    return values


def _e8m0fnu() -> Array:
    """A power of two, and one NaN: the format of scales."""
    values = np.exp2(np.arange(256) - 127.0)
    values[0xFF] = np.nan
    return values


_TABLES: Mapping[str, Callable[[], Array]] = {
    "float8_e4m3fn": _e4m3fn,
    "float8_e5m2": _e5m2,
    "float8_e4m3fnuz": lambda: _unsigned_zero(4, 3, 8),
    "float8_e5m2fnuz": lambda: _unsigned_zero(5, 2, 16),
    "float8_e8m0fnu": _e8m0fnu,
}
FORMATS = frozenset(_TABLES) - {"float8_e8m0fnu"}
"""The names of the formats that weights have; e8m0 has no sign and no zero, and only scales use it."""


@cache
def table(dtype: DType) -> Array:
    """The number that each of the 256 codes stands for, float32, not to be changed.

    Args:
        dtype: one of the formats of one byte.

    Example:
        >>> from weft.kernels.dtypes import BY_NAME
        >>> table(BY_NAME["float8_e4m3fn"])[[0x01, 0x38, 0x7E]].tolist()
        [0.001953125, 1.0, 448.0]
    """
    values = _TABLES[dtype.name]().astype(np.float32)
    values.setflags(write=False)
    return values


@native
def _decode_row(out, codes, low, scales, block, numbers):
    """A part of one row, from column `low`; `scales` are the whole row's, one for each `block` columns."""
    if block == 1:
        own = scales[low : low + len(out)]
        for j in range(len(out)):
            out[j] = numbers[codes[j]] * own[j]
        return
    high = low + len(out)
    for k in range(low // block, (high - 1) // block + 1):
        begin, end = max(low, k * block) - low, min(high, (k + 1) * block) - low
        part, coded, scale = out[begin:end], codes[begin:end], scales[k]
        for j in range(len(part)):
            part[j] = numbers[coded[j]] * scale


def decode_blocks(
    out: Array,
    codes: Array,
    start: int,
    matrix: tuple[int, int],
    block: tuple[int, int],
    scales: Array,
    first: int,
    numbers: Array,
) -> None:
    """Decode a range of a stack of matrices, whose blocks have one scale each.

    Args:
        out: float32, shape [n]; filled.
        codes: uint8, shape [n]: the elements `start`, ... of the flattened stack.
        start: the first element.
        matrix: rows and columns of one matrix.
        block: rows and columns of one block; those at the end of a matrix may be cut off.
        scales: float32, shape [k, blocks in a row of one matrix]: those of all matrices one below the other, as far as
            the range needs them.
        first: which row of the scales `scales` begins with.
        numbers: what the codes stand for, float32, shape [256].
    """
    _decode_blocks(out, codes, start, *matrix, *block, scales, first, numbers)


@native
def _decode_blocks(out, codes, start, rows, columns, height, width, scales, first, numbers):
    in_matrix = (rows - 1) // height + 1
    if len(out) == 0:
        return
    for row in range(start // columns, (start + len(out) - 1) // columns + 1):
        origin = row * columns - start
        low, high = max(0, -origin), min(columns, len(out) - origin)
        own = scales[row // rows * in_matrix + row % rows // height - first]
        _decode_row(out[origin + low : origin + high], codes[origin + low : origin + high], low, own, width, numbers)
