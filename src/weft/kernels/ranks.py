"""The order of the numbers in each row, by counting: what a sort would tell, without sorting.

The bits of non-negative floats order as the floats do, so what is ordered are whole numbers, called keys. A row of
float32 is parted by where its keys lie between the least and the largest; what is not yet in order in so many parts is
near its place, and is put there one by one. Where the numbers lie too close together for that, and for long rows and
float64, the keys are ordered digit by digit.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from weft.kernels.native import native

_DIGIT = 11
_BINS = 1 << _DIGIT
_LONGEST = 1 << 17
"""Numbers of a row that is parted; the parts of a longer one would not stay in the core's cache."""

_PATIENCE = 16
"""Steps for each number of a row, on average, after which it is ordered digit by digit instead."""

_HIGH = np.uint64(32)
_LOW_BITS = np.uint64(0xFFFFFFFF)


def rank_rows(values: np.ndarray[Any, Any], length: int, ranks: np.ndarray[Any, Any]) -> None:
    """Write every number's rank in its row, from 0; of equal numbers the earlier comes first.

    Args:
        values: float32 or float64, not negative, shape [rows * length].
        length: numbers of a row.
        ranks: float32, shape [rows * length]; exact for rows of up to 2^24 numbers.

    Example:
        >>> ranks = np.empty(4, np.float32)
        >>> rank_rows(np.array([3.0, 1.0, 1.0, 2.0], np.float32), 4, ranks)
        >>> ranks
        array([3., 0., 1., 2.], dtype=float32)
    """
    keys = values.view(np.uint32 if values.dtype == np.float32 else np.uint64)
    two_keys, two_places = np.empty((2, length), keys.dtype), np.empty((2, length), np.int32)
    counts = np.empty(_BINS, np.int64)
    if values.dtype == np.float32 and length <= _LONGEST:
        part, ends = np.empty(length, np.uint32), np.empty(_parts(length), np.int32)
        ordered = np.empty(length, np.uint64)
        _rank_by_parts(keys, length, ranks, part, ends, ordered, two_keys, two_places, counts)
    else:
        _rank_by_digits(keys, length, ranks, two_keys, two_places, counts)


def _parts(length: int) -> int:
    """A power of two, from twice the numbers of a row on."""
    return 1 << max((2 * length - 1).bit_length(), 1)


@native
def _rank_by_parts(keys, length, ranks, part, ends, ordered, two_keys, two_places, counts):
    for row in range(len(keys) // length):
        own = keys[row * length : (row + 1) * length]
        out = ranks[row * length : (row + 1) * length]
        _part(own, part, len(ends))
        _gather(own, part, ends, ordered)
        if _mend(ordered):
            for i in range(length):
                out[ordered[i] & _LOW_BITS] = np.float32(i)
        else:
            _rank_by_digits(own, length, out, two_keys, two_places, counts)


@native
def _part(keys, part, parts):
    """In which part of the range every key lies; 0 has one of its own, whatever is next."""
    low = np.uint32(0xFFFFFFFF)
    high = np.uint32(0)
    for key in keys:
        low = min(low, np.uint32(key - np.uint32(1)))  # 0 becomes the largest of all
        high = max(high, key)
    if high == np.uint32(0):
        low = high
    scale = (np.uint64(parts) << _HIGH) // (np.uint64(high - low) + np.uint64(1))
    for i in range(len(keys)):
        distance = np.uint32(max(keys[i], low) - low)
        part[i] = np.uint32(np.uint64(distance) * scale >> _HIGH)


@native
def _gather(keys, part, ends, ordered):
    """Write keys, each with its place below it, part by part."""
    for p in range(len(ends)):
        ends[p] = 0
    for p in part:
        ends[p] += 1
    total = np.int32(0)
    for p in range(len(ends)):
        count = ends[p]
        ends[p] = total
        total += count
    for i in range(len(keys)):
        at = ends[part[i]]
        ends[part[i]] = at + 1
        ordered[at] = np.uint64(keys[i]) << _HIGH | np.uint64(i)


@native
def _mend(ordered):
    """Put in order what nearly is; whether that was so."""
    steps = 0
    for i in range(1, len(ordered)):
        one = ordered[i]
        if ordered[i - 1] > one:
            j = i
            while j > 0 and ordered[j - 1] > one:
                ordered[j] = ordered[j - 1]
                j -= 1
            ordered[j] = one
            steps += i - j
            if steps > _PATIENCE * len(ordered):
                return False
    return True


@native
def _rank_by_digits(keys, length, ranks, two_keys, two_places, counts):
    bits = 8 * keys.itemsize - 1  # the sign's is never set
    key, other_key = two_keys[0], two_keys[1]
    place, other_place = two_places[0], two_places[1]
    for row in range(len(keys) // length):
        own = keys[row * length : (row + 1) * length]
        out = ranks[row * length : (row + 1) * length]
        for i in range(length):
            key[i] = own[i]
            place[i] = i
        for shift in range(0, bits, _DIGIT):
            if _by_digit(key, place, other_key, other_place, counts, shift):
                key, other_key = other_key, key
                place, other_place = other_place, place
        for i in range(length):
            out[place[i]] = np.float32(i)


@native
def _by_digit(key, place, to_key, to_place, counts, shift):
    """One step of ordering, by one digit, that leaves equals as they are; whether anything had to move."""
    for b in range(_BINS):
        counts[b] = 0
    down = key.dtype.type(shift)
    mask = key.dtype.type(_BINS - 1)
    for k in key:
        counts[(k >> down) & mask] += 1
    if counts[(key[0] >> down) & mask] == len(key):
        return False
    total = 0
    for b in range(_BINS):
        count = counts[b]
        counts[b] = total
        total += count
    for i in range(len(key)):
        b = (key[i] >> down) & mask
        to_key[counts[b]] = key[i]
        to_place[counts[b]] = place[i]
        counts[b] += 1
    return True
