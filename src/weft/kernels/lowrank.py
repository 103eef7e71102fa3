"""A low-rank product added to a range of a matrix, so that its bits depend on the element and never on the range.

Every element is `w + scale * sum_k left[row, k] * right[k, column]`: the sum starts at zero and takes k in order, each
product and each sum rounded by itself, the same for whatever part of a row is asked for. It is accumulated in the
precision of the arrays. In float32 that is enough, because the sum is a small part of the result: for rank 16 and a
change of 4 % of the weights, 98.3 % of the elements are the exact ones, correctly rounded, no error exceeds 2e-7 of the
weights' root mean square, and one element in a million becomes another bfloat16. Summing in float64 takes about twice
as long.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from weft.kernels.compiler import Input, Loop, compiled
from weft.kernels.dtypes import DType
from weft.kernels.element import element
from weft.kernels.native import Array, native

_BLOCK = 1024
"""Columns that are summed at once: the sums and the rows of `right` that they need stay in the nearest caches."""


@element
def unchanged(value: float) -> float:
    """One parameter, as it is stored."""
    return value


@cache
def widening(stored: DType, compute: DType) -> Callable[[Array, Array], None]:
    """A function `widen(values, into)` that decodes stored numbers to float32 or float64.

    Args:
        stored: the format of `values`.
        compute: the format of `into`; at least as wide, so that nothing is rounded.
    """
    kernel = compiled(Loop(unchanged, (), (Input("value", None, stored),), (), 1, compute, compute))
    nothing = np.empty(0, compute.storage)

    def widen(values: Array, into: Array) -> None:
        kernel(into, 0, -1, nothing, values)

    return widen


@native
def _part(row, columns, start, size):
    """Where in a range of `size` elements from `start` this row begins, and from and to which column the range has it.

    The first is negative when the row begins before the range.
    """
    origin = row * columns - start
    return origin, max(0, -origin), min(columns, size - origin)


@native
def _sum_products(sums, weights, right, low, high):
    """`sums[j] = sum_k weights[k] * right[k, low + j]`, eight k at a time in one pass; the order of the sum is k's."""
    for j in range(len(sums)):
        sums[j] = 0
    rank = len(weights)
    whole = rank - rank % 8
    for k in range(0, whole, 8):
        a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        e, f, g, h = weights[k + 4], weights[k + 5], weights[k + 6], weights[k + 7]
        p, q, r, s = right[k][low:high], right[k + 1][low:high], right[k + 2][low:high], right[k + 3][low:high]
        t, u, v, w = right[k + 4][low:high], right[k + 5][low:high], right[k + 6][low:high], right[k + 7][low:high]
        for j in range(len(sums)):
            first = (((sums[j] + a * p[j]) + b * q[j]) + c * r[j]) + d * s[j]
            sums[j] = (((first + e * t[j]) + f * u[j]) + g * v[j]) + h * w[j]
    for k in range(whole, rank):
        factor, row = weights[k], right[k][low:high]
        for j in range(len(sums)):
            sums[j] += factor * row[j]


def add_low_rank(values: Array, start: int, left: Array, right: Array, scale: float) -> None:
    """Add `scale * left @ right` to a range of a matrix.

    Args:
        values: float32 or float64, shape [n]: the elements `start`, ... of the flattened matrix; changed.
        start: the first element.
        left: shape [rows, rank], of the type of `values`.
        right: shape [rank, columns], of the type of `values`, contiguous.
        scale: a number of the type of `values`.
    """
    sums = np.empty(min(_BLOCK, right.shape[1]), right.dtype)
    _add_low_rank(values, start, left, right, float(scale), sums)


@native
def _add_low_rank(values, start, left, right, factor, sums):
    columns, scale = right.shape[1], values.dtype.type(factor)
    if len(values) == 0:
        return
    for block in range(0, columns, _BLOCK):
        for row in range(start // columns, (start + len(values) - 1) // columns + 1):
            origin, low, high = _part(row, columns, start, len(values))
            low, high = max(low, block), min(high, block + _BLOCK)
            if low < high:
                part = sums[: high - low]
                _sum_products(part, left[row], right, low, high)
                out = values[origin + low : origin + high]
                for j in range(len(part)):
                    out[j] += scale * part[j]


@native
def _sum_of_squares(values):
    """In float64, in four interleaved partial sums that are added in a fixed order."""
    whole = len(values) - len(values) % 4
    a = b = c = d = 0.0
    for i in range(0, whole, 4):
        four = values[i : i + 4]
        a += np.float64(four[0]) * np.float64(four[0])
        b += np.float64(four[1]) * np.float64(four[1])
        c += np.float64(four[2]) * np.float64(four[2])
        d += np.float64(four[3]) * np.float64(four[3])
    for value in values[whole:]:
        a += np.float64(value) * np.float64(value)
    return (a + b) + (c + d)


@native
def add_squares_of_rows(values, start, columns, sums):
    """Add the squares of a range of a matrix to the sums of their rows.

    The last bits depend on where a row is cut: ask for the same ranges, in order, to have the same sums.

    Args:
        values: float32 or float64, shape [n]: the elements `start`, ... of the flattened matrix.
        start: the first element.
        columns: of the matrix.
        sums: float64, shape [rows]; added to.
    """
    if len(values) == 0:
        return
    for row in range(start // columns, (start + len(values) - 1) // columns + 1):
        origin, low, high = _part(row, columns, start, len(values))
        sums[row] += _sum_of_squares(values[origin + low : origin + high])


@native
def add_squares_of_columns(values, start, columns, sums):
    """As `add_squares_of_rows`, to the sums of their columns: `sums` has shape [columns]."""
    if len(values) == 0:
        return
    for row in range(start // columns, (start + len(values) - 1) // columns + 1):
        origin, low, high = _part(row, columns, start, len(values))
        part, total = values[origin + low : origin + high], sums[low:high]
        for j in range(len(part)):
            total[j] += np.float64(part[j]) * np.float64(part[j])


@native
def scale_rows(values, start, columns, factors):
    """Multiply every element of a range of a matrix by the factor of its row: `factors` has shape [rows]."""
    if len(values) == 0:
        return
    for row in range(start // columns, (start + len(values) - 1) // columns + 1):
        origin, low, high = _part(row, columns, start, len(values))
        part, factor = values[origin + low : origin + high], factors[row]
        for j in range(len(part)):
            part[j] *= factor


@native
def scale_columns(values, start, columns, factors):
    """Multiply every element of a range of a matrix by the factor of its column: `factors` has shape [columns]."""
    if len(values) == 0:
        return
    for row in range(start // columns, (start + len(values) - 1) // columns + 1):
        origin, low, high = _part(row, columns, start, len(values))
        part, factor = values[origin + low : origin + high], factors[low:high]
        for j in range(len(part)):
            part[j] *= factor[j]
