"""The order of the numbers in each row, by counting digits: what a sort would tell, without sorting."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_DIGIT = 11
_BINS = 1 << _DIGIT
_COMPILED = {"nogil": True, "error_model": "numpy", "cache": True}


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
    _rank_rows(keys, length, ranks, 8 * keys.dtype.itemsize - 1)


@njit(**_COMPILED)
def _rank_rows(keys, length, ranks, bits):
    key = np.empty(length, keys.dtype)
    place = np.empty(length, np.int32)
    other_key = np.empty(length, keys.dtype)
    other_place = np.empty(length, np.int32)
    for row in range(len(keys) // length):
        part = keys[row * length : (row + 1) * length]
        out = ranks[row * length : (row + 1) * length]
        if length <= 64:
            _insert(part, key, place)
        else:
            for i in range(length):
                key[i] = part[i]
                place[i] = i
            for shift in range(0, bits, _DIGIT):
                if _by_digit(key, place, other_key, other_place, shift):
                    key, other_key = other_key, key
                    place, other_place = other_place, place
        for i in range(length):
            out[place[i]] = np.float32(i)


@njit(**_COMPILED)
def _insert(part, key, place):
    """Put a short row in order."""
    for i in range(len(part)):
        j = i
        while j > 0 and key[j - 1] > part[i]:
            key[j] = key[j - 1]
            place[j] = place[j - 1]
            j -= 1
        key[j] = part[i]
        place[j] = i


@njit(**_COMPILED)
def _by_digit(key, place, to_key, to_place, shift):
    """One step of ordering, by one digit, that leaves equals as they are; whether anything had to move."""
    counts = np.zeros(_BINS, np.int64)
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
