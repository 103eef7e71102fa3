"""The exponential functions of the scalar language: accuracy against long doubles, equal bits everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numba import njit

from weft.kernels import exponentials
from weft.kernels.compiler import Input, Loop, compiled, source_of
from weft.kernels.dtypes import FLOAT32, FLOAT64
from weft.kernels.element import element
from weft.kernels.elementary import exp, tanh
from weft.kernels.selection import RankSelection

ULPS = {"exp": 2.0, "tanh": 4.0}
RANGES = {"float32": (1e-30, 1e-6, 1.0, 10.0, 85.0), "float64": (1e-200, 1e-6, 1.0, 10.0, 700.0)}


def through(name: str, x: np.ndarray) -> np.ndarray:
    """What compiled code makes of an array."""
    function = getattr(exponentials, f"{name}_{x.dtype.name}")

    @njit(error_model="numpy")
    def loop(given: Any, out: Any) -> None:
        for i in range(len(given)):
            out[i] = function(given[i])

    out = np.empty_like(x)
    loop(x, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "tanh"])
def test_accuracy_and_ends(name: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-most, most, 50_000) for most in RANGES[dtype]]).astype(dtype)
    exact = getattr(np, name)(x.astype(np.longdouble))
    ulps = np.abs(through(name, x) - exact) / np.spacing(np.abs(exact.astype(dtype)))
    assert float(ulps.max()) < ULPS[name]
    ends = np.array([0.0, np.inf, -np.inf, np.nan, 1e30, -1e30], dtype)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(through(name, ends), getattr(np, name)(ends))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_nearly_nothing_or_too_large(dtype: str) -> None:
    low, high = (-104.0, 88.8) if dtype == "float32" else (-746.0, 709.8)
    x = np.linspace(low, low + 20, 1001).astype(dtype)
    np.testing.assert_allclose(through("exp", x), np.exp(x), rtol=1e-5, atol=float(np.finfo(dtype).smallest_subnormal))
    assert through("exp", np.array([low - 5, high + 0.1], dtype)).tolist() == [0.0, math.inf]


@element
def squashed(tuned: float) -> float:
    return tanh(tuned) * exp(-tuned)


@pytest.mark.parametrize("precision", [FLOAT32, FLOAT64], ids=lambda p: p.name)
def test_the_same_bits_wherever_an_element_stands(precision: Any) -> None:
    """In the vectors of a long loop, in what is left over at its end, and alone."""
    kernel = compiled(Loop(squashed, (), (Input("tuned", None, precision),), (), 1, precision, precision))
    x = np.random.default_rng(2).uniform(-9, 9, 1003).astype(precision.name)
    whole = np.empty_like(x)
    kernel(whole, 0, -1, np.empty(0, x.dtype), x)
    for cut in (1, 3, 7, 64, 500):
        parts = [np.empty_like(x[k : k + cut]) for k in range(0, len(x), cut)]
        for k, part in enumerate(parts):
            kernel(part, k * cut, -1, np.empty(0, x.dtype), x[k * cut : (k + 1) * cut])
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    plain = np.array([squashed(float(value)) for value in x])
    np.testing.assert_allclose(whole, plain, rtol=2e-6 if precision is FLOAT32 else 2e-14)


def test_a_loop_depends_on_their_text_only_if_it_calls_them() -> None:
    @element
    def plain(tuned: float) -> float:
        return tuned

    inputs = (Input("tuned", None, FLOAT32),)
    assert "exp_float32 as exp" in source_of(Loop(squashed, (), inputs, (), 1, FLOAT32, FLOAT32))
    assert "elementary" not in source_of(Loop(plain, (), inputs, (), 1, FLOAT32, FLOAT32))


def test_another_library_s_function_is_refused() -> None:
    from weft.kernels.specialise import constants

    with pytest.raises(TypeError, match="cannot be compiled: use numbers, functions marked @element, exp and tanh"):
        constants(unknown)


@element
def unknown(tuned: float) -> float:
    return math.exp(tuned)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda d: d.name)
def test_ranks_of_numbers_of_either_sign(dtype: Any) -> None:
    """Of 64 bits a distance between the keys of two of them does not fit a signed number."""
    x = np.random.default_rng(3).standard_normal(3000).astype(dtype.name)
    ranks = [1, 2, 1400, 1500, 1600, 2999, 3000]
    selection = RankSelection(ranks, dtype, signed=True)
    while not selection.done:
        halves = [selection.tables(), selection.tables()]
        for part, tables in zip((x[:1111], x[1111:]), halves):
            selection.add(part, tables)
        selection.advance(halves)
    assert [selection.result(rank) for rank in ranks] == [float(v) for v in np.sort(x)[np.array(ranks) - 1]]
