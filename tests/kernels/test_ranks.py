"""Ranks are those of a stable sort, whatever the numbers and however long the rows."""

from __future__ import annotations

import numpy as np
import pytest

from weft.kernels.ranks import rank_rows

LENGTHS = (1, 2, 3, 7, 16, 63, 64, 65, 128, 896, 5000)
Rng = np.random.Generator


def coarse(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """As changes of a model stored in sixteen bits: few distinct numbers, many of them 0."""
    return np.round(np.abs(rng.standard_normal(shape)) * 8) / 1024


def close(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """All but one of them so close together that no parting of the range tells them apart."""
    values = 1 + rng.random(shape) * 1e-4
    values[..., 0] = 1e30
    return values


KINDS = {
    "normal": lambda rng, shape: np.abs(rng.standard_normal(shape)),
    "coarse": coarse,
    "close": close,
    "many sizes": lambda rng, shape: 10.0 ** rng.uniform(-44, 38, shape),
    "zero": lambda rng, shape: np.zeros(shape),
    "equal": lambda rng, shape: np.full(shape, 0.3),
    "one": lambda rng, shape: np.arange(np.prod(shape)).reshape(shape) == 0,
    "ascending": lambda rng, shape: np.sort(rng.random(shape)),
    "descending": lambda rng, shape: -np.sort(-rng.random(shape)),
    "infinite": lambda rng, shape: np.where(rng.random(shape) < 0.5, np.inf, rng.random(shape)),
}


def expected(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(values.shape, np.float32)
    np.put_along_axis(
        ranks, np.argsort(values, axis=-1, kind="stable"), np.arange(values.shape[-1], dtype=np.float32), -1
    )
    return ranks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_those_of_a_stable_sort(kind: str, dtype: type) -> None:
    for length in LENGTHS:
        rng = np.random.default_rng([length, 7])
        values = KINDS[kind](rng, (max(2000 // length, 3), length)).astype(dtype)
        ranks = np.empty(values.size, np.float32)
        rank_rows(values.reshape(-1), length, ranks)
        np.testing.assert_array_equal(ranks.reshape(values.shape), expected(values), err_msg=str(length))


@pytest.mark.parametrize("kind", ["normal", "coarse", "close"])
def test_long_rows(kind: str) -> None:
    for length in ((1 << 17) - 1, 1 << 17, (1 << 17) + 1):
        values = KINDS[kind](np.random.default_rng(3), (2, length)).astype(np.float32)
        ranks = np.empty(values.size, np.float32)
        rank_rows(values.reshape(-1), length, ranks)
        np.testing.assert_array_equal(ranks.reshape(values.shape), expected(values))


def test_what_is_left_over_after_the_last_row_is_not_touched() -> None:
    ranks = np.full(7, -1, np.float32)
    rank_rows(np.arange(7, dtype=np.float32), 3, ranks)
    assert ranks.tolist() == [0, 1, 2, 0, 1, 2, -1]
