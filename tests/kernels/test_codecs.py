"""Every 16-bit code, and the rounding of every kind of number, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit

from weft.kernels import codecs

CODES = np.arange(1 << 16, dtype=np.uint16)
TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def each(function, values: np.ndarray, dtype: type) -> np.ndarray:
    @njit
    def loop(values, out):
        for i in range(len(values)):
            out[i] = function(values[i])

    out = np.empty(len(values), dtype)
    loop(values, out)
    return out


def torch_codes(values: np.ndarray, name: str) -> np.ndarray:
    return torch.from_numpy(values).to(TORCH[name]).view(torch.int16).numpy().view(np.uint16)


def hard_numbers(dtype: type) -> np.ndarray:
    """Both signs; halfway cases and their neighbours, subnormals, overflow, infinities."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    bits[::3] = (bits[::3] & 0xFFFF0000) | 0x8000
    bits[1::9] = (bits[1::9] & 0xFFFFE000) | 0x1000
    values = bits.view(np.float32)
    values = np.concatenate(
        [values[np.isfinite(values)], np.array([0.0, -0.0, np.inf, -np.inf, 65504, 65520, 3.4e38], np.float32)]
    )
    wide = values.astype(dtype)
    if dtype is np.float64:
        wide = np.concatenate([wide, wide * (1 + 2.0**-40), wide * (1 - 2.0**-40), wide * 2.0**-20])
    return wide


@pytest.mark.parametrize("name", TORCH)
def test_decoding_is_exact(name: str) -> None:
    decoded = each(getattr(codecs, f"decode_{name}"), CODES, np.float32)
    expected = torch.from_numpy(CODES.view(np.int16)).view(TORCH[name]).float().numpy()
    assert np.array_equal(decoded, expected, equal_nan=True)


@pytest.mark.parametrize("name", TORCH)
def test_encoding_rounds_to_nearest_even(name: str) -> None:
    values = hard_numbers(np.float32)
    assert np.array_equal(each(getattr(codecs, f"encode_{name}"), values, np.uint16), torch_codes(values, name))


@pytest.mark.parametrize("name", TORCH)
def test_codes_survive_the_round_trip(name: str) -> None:
    decoded = each(getattr(codecs, f"decode_{name}"), CODES, np.float32)
    again = each(getattr(codecs, f"encode_{name}"), decoded, np.uint16)
    numbers = ~np.isnan(decoded)
    assert np.array_equal(again[numbers], CODES[numbers])
    assert np.isnan(each(getattr(codecs, f"decode_{name}"), again[~numbers], np.float32)).all()


def nearest_code(values: np.ndarray, name: str) -> np.ndarray:
    """Single rounding by search: of all codes the nearest in float64, of two equally near the even one."""
    decoded = torch.from_numpy(CODES.view(np.int16)).view(TORCH[name]).double().numpy()
    positive = CODES[(CODES < 0x8000) & np.isfinite(decoded)]
    grid = decoded[positive]
    above = np.clip(np.searchsorted(grid, np.abs(values)), 1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    up = np.abs(values) - low > high - np.abs(values)
    tie = np.abs(values) - low == high - np.abs(values)
    chosen = np.where(up | (tie & (positive[above] % 2 == 0)), positive[above], positive[above - 1])
    return (chosen | np.where(np.signbit(values), 0x8000, 0)).astype(np.uint16)


@pytest.mark.parametrize(("name", "largest"), [("bfloat16", 3.3e38), ("float16", 65504.0)])
def test_float64_is_rounded_once(name: str, largest: float) -> None:
    values = hard_numbers(np.float64)
    values = values[np.abs(values) <= largest]
    assert np.array_equal(each(getattr(codecs, f"encode_{name}_once"), values, np.uint16), nearest_code(values, name))
