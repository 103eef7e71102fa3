"""float16 on a processor that does not convert it: the same bits, one step after the other."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from weft.kernels.codecs import narrow_half_in_steps, widen_half_in_steps


@njit
def widened(bits, out):
    for k in range(len(bits)):
        out[k] = widen_half_in_steps(bits[k])


@njit
def narrowed(values, out):
    for k in range(len(values)):
        out[k] = narrow_half_in_steps(values[k])


def narrow(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), np.uint16)
    narrowed(values, out)
    return out


ALL = np.arange(1 << 16).astype(np.uint16)


def test_every_float16_is_widened_exactly() -> None:
    out = np.empty(len(ALL), np.float32)
    widened(ALL, out)
    assert np.array_equal(out.view(np.uint32), ALL.view(np.float16).astype(np.float32).view(np.uint32))


def test_every_float16_and_what_lies_around_its_middles_is_narrowed() -> None:
    finite = ALL.view(np.float16).astype(np.float32)
    finite = np.sort(finite[np.isfinite(finite)])
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    edges = np.array([65519.996, 65520, 65536, 3e38, 1e-45, np.inf], np.float32)
    values = np.concatenate([finite, middles, np.nextafter(middles, np.float32(9)), edges, -edges])
    values = np.concatenate([values, np.nextafter(middles, np.float32(-9))])
    with np.errstate(over="ignore"):
        assert np.array_equal(narrow(values), values.astype(np.float16).view(np.uint16))


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_any_float32_is_narrowed(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    found = narrow(values).view(np.float16)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="all others convert float16")
def test_an_old_processor_merges_float16(tmp_path: Path) -> None:
    """LLVM would call a function that is not there, and end the process."""
    program = (
        "import numpy as np, weft;"
        "models = [{'w': np.array([1.0, 65504, 6e-8, -0.1], np.float16)}, {'w': np.zeros(4, np.float16)}];"
        "print(weft.merge(models)['w'].tolist())"
    )
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "WEFT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    expected = (np.array([1.0, 65504, 6e-8, -0.1], np.float16).astype(np.float32) / 2).astype(np.float16)
    assert done.stdout == f"{expected.tolist()}\n"
