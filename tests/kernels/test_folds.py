"""Exact order statistics and sums that do not know how they were cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.kernels.dtypes import FLOAT32, FLOAT64, DType
from weft.kernels.folds import BLOCK, block_sums
from weft.kernels.selection import RankSelection, Selection, ShareSelection


def streamed(selection: Selection, values: np.ndarray, pieces: int) -> None:
    while not selection.done:
        tables = [selection.tables() for _ in range(3)]
        for k, piece in enumerate(np.array_split(values, pieces)):
            selection.add(np.ascontiguousarray(piece), tables[k % 3])
        selection.advance(tables)


def magnitudes(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    width = dtype.itemsize * 8
    elements = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 2.0**100, width=width))
    return hnp.arrays(dtype.storage, st.integers(1, 60), elements=elements)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranks(dtype: DType, data: st.DataObject) -> None:
    values = data.draw(magnitudes(dtype))
    ranks = data.draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=5))
    selection = RankSelection(ranks, dtype)
    streamed(selection, values, data.draw(st.integers(1, 4)))
    for rank in ranks:
        assert selection.result(rank) == (np.sort(values)[rank - 1] if rank else 0.0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_what_is_not_a_number_is_the_largest_whatever_its_sign(dtype: DType, signed: bool) -> None:
    """Of every bit pattern, as processors differ: x86 sets the sign of inf - inf, ARM does not."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal(40) if signed else rng.random(40)
    values = np.concatenate([values, [0.0, np.inf], [-np.inf, -0.0] if signed else []]).astype(dtype.storage)
    infinite = np.array([np.inf], dtype.storage).view(f"u{dtype.itemsize}")
    patterns = np.concatenate([infinite + 1, ~(infinite & 0), ~(infinite & 0) >> 1, (~infinite >> 1) | infinite])
    sign = (~(infinite & 0) >> 1) + 1
    nans = np.concatenate([patterns, patterns | sign]).view(dtype.storage)
    assert np.isnan(nans).all()
    every = rng.permutation(np.concatenate([values, nans]))
    ranks = range(1, len(every) + 1)
    plain, expecting = (RankSelection(ranks, dtype, signed) for _ in range(2))
    expecting.expect(every[:48].reshape(6, 8), len(every))
    for selection in (plain, expecting):
        streamed(selection, every, 3)
        np.testing.assert_array_equal([selection.result(rank) for rank in ranks], np.sort(every))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_the_share_of_what_is_not_a_number_does_not_depend_on_its_sign(dtype: DType) -> None:
    found = []
    for sign in (1.0, -1.0):
        selection = ShareSelection([0.5], dtype)
        streamed(selection, np.array([1.0, 2.0, np.copysign(np.nan, sign)], dtype.storage), 1)
        found.append(np.float64(selection.result(0.5)).tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), share=st.floats(0.01, 1.0))
def test_shares(dtype: DType, data: st.DataObject, share: float) -> None:
    """The answer's tail holds the share, and no larger number's tail does; in exact arithmetic."""
    from fractions import Fraction

    leading = data.draw(hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 2**20)))
    values = leading.astype(dtype.storage)
    selection = ShareSelection([share], dtype)
    streamed(selection, values, 3)
    squares = sorted((int(x) ** 2 for x in leading), reverse=True)
    wanted = Fraction(share) * sum(squares)
    held = np.cumsum(np.array(squares, object))
    first = next(k for k, total in enumerate(held) if total >= wanted)
    assert selection.result(share) ** 2 == squares[first]


@given(st.integers(0, 3 * BLOCK), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_sums_of_blocks_do_not_know_of_tiles(size: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    whole = block_sums(values)
    pieces = [block_sums(values[start : start + BLOCK]) for start in range(0, size, BLOCK)]
    assert whole.tolist() == np.concatenate([np.zeros(0), *pieces]).tolist()
    assert np.isclose(whole.sum(), values.astype(np.float64).sum(), rtol=1e-12, atol=1e-9)


def test_a_sample_of_equal_numbers_proves_nothing() -> None:
    values = np.arange(1, 101, dtype=np.float32)
    selection = RankSelection([50], FLOAT32)
    selection.expect(np.zeros((4, 16), np.float32), len(values))
    streamed(selection, values, 3)
    assert selection.result(50) == 50.0
