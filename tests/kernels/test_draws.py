"""The draws are what they should be: uniform, independent, and a function of seed, model, name and index alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numba import njit

from weft.kernels.draws import keys_of, uniform

COUNT = 1 << 18


@njit
def _drawn(low: int, high: int, first: int, count: int) -> np.ndarray:
    out = np.empty(count, np.float32)
    for i in range(count):
        out[i] = uniform(low, high, first + i)
    return out


def drawn(seed: int, name: str, model: int, first: int = 0, count: int = COUNT) -> np.ndarray:
    low, high = keys_of(seed, name, model + 1)[-2:]
    return _drawn(low, high, first, count)


def reference(low: int, high: int, index: int) -> float:
    """The same in whole numbers of any length."""

    def mixed(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x21F0AAAD % 2**32
        x = (x ^ (x >> 15)) * 0xD35A2D97 % 2**32
        return x ^ (x >> 15)

    first = mixed(index % 2**32 ^ low)
    return (mixed((first + high + (index >> 32) * 0x9E3779B9) % 2**32) >> 8) / 2**24


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations from what chance gives."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


STREAMS = [(0, "w", 0), (0, "w", 1), (0, "w", 2), (1, "w", 0), (2, "w", 0), (0, "v", 0), (0, "layers.0.w", 0)]


@pytest.mark.parametrize("first", [0, 12345, 2**32 - 3, 2**40 + 7])
def test_it_is_what_whole_numbers_say(first: int) -> None:
    low, high = keys_of(3, "layers.2.w", 1)
    expected = [reference(int(low), int(high), first + i) for i in range(8)]
    assert drawn(3, "layers.2.w", 0, first, 8).tolist() == expected


@pytest.mark.parametrize(("seed", "name", "model"), STREAMS)
def test_every_stream_is_uniform(seed: int, name: str, model: int) -> None:
    draws = drawn(seed, name, model)
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    for bins in (10, 256, 4096):
        assert abs(chi_square(np.histogram(draws, bins, (0, 1))[0])) < 5
    low_digits = (draws * 2**24).astype(np.int64) % 256
    assert abs(chi_square(np.bincount(low_digits, minlength=256))) < 5


@pytest.mark.parametrize(("one", "other"), list(pairwise(STREAMS)))
def test_two_streams_have_nothing_to_do_with_each_other(one: tuple, other: tuple) -> None:
    a, b = drawn(*one), drawn(*other)
    together = np.histogram2d(a, b, 16, ((0, 1), (0, 1)))[0]
    assert abs(chi_square(together.ravel())) < 5
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 64, 255, 256, 896, 1024, 4096, 16384, 65536])
def test_neighbours_have_nothing_to_do_with_each_other(lag: int) -> None:
    """Also those in the next row, the next block, and the next of a tensor's other dimensions."""
    draws = drawn(0, "w", 0)
    together = np.histogram2d(draws[:-lag], draws[lag:], 16, ((0, 1), (0, 1)))[0]
    assert abs(chi_square(together.ravel())) < 5


def test_keys_are_all_different() -> None:
    keys = [
        tuple(keys_of(seed, f"layers.{k}.w", 3)[2 * m : 2 * m + 2])
        for seed in (0, 1)
        for k in range(9)
        for m in range(3)
    ]
    assert len(set(keys)) == len(keys)


def test_names_that_look_alike_draw_otherwise() -> None:
    """The parts of a key cannot run into each other."""
    assert (keys_of(1, "1", 1) != keys_of(11, "", 1)).all()
    assert (drawn(0, "w", 0, count=64) != drawn(0, "w ", 0, count=64)).any()
