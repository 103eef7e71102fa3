"""What a reduction does with a tile of numbers. Every result is independent of how the numbers were cut into tiles.

A reduction is a compiled map into a scratch tile followed by one of these folds. Sums are taken over canonical
blocks, in a fixed order inside a block, and the blocks' sums are added exactly; counts are integers.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import numpy as np

from weft.kernels.native import Array, native

BLOCK = 16384
"""Elements of a canonical block. Tiles begin on a multiple of it."""

LANES = 8
DIGITS = 16
BINS = 1 << DIGITS
COUNTS, LOWEST, HIGHEST = 0, 1, 2
"""Rows of a table of `count_between`."""


def block_sums(values: Array) -> Array:
    """The float64 sum of each canonical block of a tile.

    Args:
        values: float32 or float64, shape [n]; the tile begins on a block boundary.

    Returns:
        float64, shape [ceil(n / BLOCK)]. Eight interleaved partial sums are kept and added in a fixed order.
    """
    sums = np.empty(-(-len(values) // BLOCK), np.float64)
    sum_blocks(values, sums)
    return sums


@native
def sum_blocks(values, sums):
    """The same, into an array."""
    for b in range(len(sums)):
        part = values[b * BLOCK : min((b + 1) * BLOCK, len(values))]
        whole = len(part) // LANES
        a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
        for i in range(whole):
            eight = part[i * LANES : i * LANES + LANES]
            a0 += np.float64(eight[0])
            a1 += np.float64(eight[1])
            a2 += np.float64(eight[2])
            a3 += np.float64(eight[3])
            a4 += np.float64(eight[4])
            a5 += np.float64(eight[5])
            a6 += np.float64(eight[6])
            a7 += np.float64(eight[7])
        rest = 0.0
        for i in range(whole * LANES, len(part)):
            rest += np.float64(part[i])
        sums[b] = (((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7))) + rest


def block_products(one: Array, other: Array) -> Array:
    """The float64 inner product of each canonical block of two tiles.

    Args:
        one: float32 or float64, shape [n]; it begins on a block boundary.
        other: the same of another stream.

    Returns:
        float64, shape [ceil(n / BLOCK)]. Eight interleaved partial sums are kept and added in a fixed order.
    """
    sums = np.empty(-(-len(one) // BLOCK), np.float64)
    _sum_products(one, other, sums, np.empty(LANES, np.float64))
    return sums


@native
def _sum_products(one, other, sums, lanes):
    for b in range(len(sums)):
        left = one[b * BLOCK : min((b + 1) * BLOCK, len(one))]
        right = other[b * BLOCK : min((b + 1) * BLOCK, len(one))]
        whole = len(left) // LANES
        for lane in range(LANES):
            lanes[lane] = 0.0
        for i in range(whole):
            for lane in range(LANES):
                lanes[lane] += np.float64(left[i * LANES + lane]) * np.float64(right[i * LANES + lane])
        rest = 0.0
        for i in range(whole * LANES, len(left)):
            rest += np.float64(left[i]) * np.float64(right[i])
        first = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
        sums[b] = (first + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))) + rest


def sums_of_each(values: Array, stops: Array) -> tuple[Array, Array]:
    """The block sums of several tensors that lie one after the other.

    Args:
        values: float32 or float64, shape [n].
        stops: int64, shape [tensors]: where each of them ends.

    Returns:
        The sums of all blocks, float64, shape [blocks]; and how many blocks each tensor has, int64, shape [tensors].
    """
    blocks = -(-np.diff(stops, prepend=0) // BLOCK)
    sums = np.empty(blocks.sum(), np.float64)
    _sum_each(values, stops, blocks, sums)
    return sums, blocks


@native
def _sum_each(values, stops, blocks, sums):
    first = at = 0
    for k in range(len(stops)):
        sum_blocks(values[first : stops[k]], sums[at : at + blocks[k]])
        at += blocks[k]
        first = stops[k]


@native
def largest_exponent(bits, mask):
    """The largest of `bits & mask`: with a format's exponent bits, whether any number is not finite.

    Args:
        bits: unsigned integers, shape [n].
        mask: a whole number.
    """
    own = bits.dtype.type(mask)
    largest = bits.dtype.type(0)
    for i in range(len(bits)):
        masked = bits[i] & own
        if masked > largest:
            largest = masked
    return largest


@native
def turn_keys(keys, infinity, turned):
    """Bits of floats of either sign, so turned that they order as the numbers do: from -infinity to -0, from 0 to
    infinity, then what is not a number, of either sign, by wrapping around.

    Args:
        keys: unsigned integers of 32 or 64 bits, shape [n].
        infinity: the bits of infinity, a whole number.
        turned: of the type and shape of the keys; filled.
    """
    one = keys.dtype.type(1)
    sign = keys.dtype.type(one << keys.dtype.type(8 * keys.itemsize - 1))
    top = keys.dtype.type(infinity)
    for i in range(len(keys)):
        key = keys[i]
        below = keys.dtype.type(keys.dtype.type(sign | top) - key)
        above = keys.dtype.type(key + keys.dtype.type(top + one))
        turned[i] = below if key >= sign else above


@native
def count_between(keys, low, span, shift, table):
    """Count the keys below a range, and those in it by bins.

    Args:
        keys: unsigned integers of 32 or 64 bits, shape [n]; the bits of non-negative floats, which order as they do.
        low: where the range begins; a whole number, as the two that follow.
        span: how many keys the range has.
        shift: a bin holds 2^shift of them.
        table: int64, shape [3, bins + 1]: for each bin its count, the lowest and the highest distance from `low`, which
            are the bits of unsigned numbers. The last column counts the keys below the range.
    """
    begin, length, down = keys.dtype.type(low), keys.dtype.type(span), keys.dtype.type(shift)
    below = 0
    for key in keys:
        below += key < begin
        distance = key - begin  # wraps around for a key below, and is then larger than any span
        if distance < length:
            k = distance >> down
            table[COUNTS, k] += 1
            table[LOWEST, k] = np.int64(min(np.uint64(table[LOWEST, k]), np.uint64(distance)))
            table[HIGHEST, k] = np.int64(max(np.uint64(table[HIGHEST, k]), np.uint64(distance)))
    table[COUNTS, -1] += below


@native
def weigh_digits(keys, mask, squares, shift, prefix, low, high):
    """Add up, for one 16-bit digit of every key whose higher digits equal `prefix`, squares of significands.

    Args:
        keys: unsigned integers, shape [n]; the bits of non-negative floats.
        mask: those of a key's bits that count.
        squares: uint64, shape [n]: squares of 24-bit significands, below 2^48.
        shift: how far right the digit lies.
        prefix: the digits above it.
        low: uint64, shape [BINS]: the low 24 bits of the squares are added here.
        high: uint64, shape [BINS]: their remaining bits; apart, 2^40 elements cannot overflow.
    """
    for i in range(len(keys)):
        shifted = (np.uint64(keys[i]) & np.uint64(mask)) >> np.uint64(shift)
        if shifted >> np.uint64(DIGITS) == np.uint64(prefix):
            digit = shifted & np.uint64(BINS - 1)
            low[digit] += squares[i] & np.uint64(0xFFFFFF)
            high[digit] += squares[i] >> np.uint64(24)
