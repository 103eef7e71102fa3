"""Every option of every method against the slow float64 reference, which was written without sight of the code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weft
from tests import reference
from tests.drawing import StateDict, as_bfloat16, base_and_tuned, fisher_of

EXACTLY = {"rtol": 1e-9, "atol": 1e-12}

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 5)
weights = st.floats(-2, 2).filter(lambda w: abs(w) > 0.05)
few = settings(max_examples=25, deadline=None)


def assert_close(ours: StateDict, theirs: StateDict, **tolerance: float) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name].astype(np.float64), expected, err_msg=name, **tolerance)


@few
@given(seeds, counts, st.data(), st.booleans())
def test_linear(seed: int, models: int, data: st.DataObject, normalize: bool) -> None:
    _, tuned = base_and_tuned(seed, models)
    weight = data.draw(st.lists(st.floats(0.1, 2), min_size=models, max_size=models))
    ours = weft.merge(tuned, weight=weight, normalize=normalize)
    assert_close(ours, reference.linear(tuned, weight, normalize), **EXACTLY)


@few
@given(seeds, counts, st.data(), st.floats(-2, 2))
def test_task_arithmetic(seed: int, models: int, data: st.DataObject, scale: float) -> None:
    base, tuned = base_and_tuned(seed, models)
    weight = data.draw(st.lists(weights, min_size=models, max_size=models))
    ours = weft.merge(tuned, base=base, method="task_arithmetic", weight=weight, scale=scale)
    assert_close(ours, reference.task_arithmetic(base, tuned, weight, scale), **EXACTLY)


def ties_case(seed: int, models: int, tied: bool, **options: Any) -> None:
    base, tuned = base_and_tuned(seed, models, tied=tied)
    ours = weft.merge(tuned, base=base, method="ties", **options)
    assert_close(ours, reference.ties(base, tuned, **options), **EXACTLY)


@pytest.mark.parametrize("elect", ["mass", "frequency", "normfrac", "normmass", "none"])
@pytest.mark.parametrize("combine", ["mean", "sum", "max", "plain_mean", "plain_sum", "median", "magnitude"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("tied", [False, True])
def test_ties_elections_and_combinations(elect: str, combine: str, scope: str, tied: bool) -> None:
    """With tied changes `normfrac` may meet parts that are equal but for rounding; weights keep those apart."""
    options = {"density": [0.3, 0.6, 1.0], "weight": [1.0, 0.7, -1.3], "scale": 0.7, "deviations": [1.0] * 3}
    ties_case(17, 3, tied, elect=elect, combine=combine, scope=scope, trim="magnitude", **options)


@few
@given(
    seeds,
    st.integers(1, 6),
    st.data(),
    st.sampled_from(["magnitude", "deviation"]),
    st.sampled_from(["model", "tensor"]),
)
def test_ties_trims(seed: int, models: int, data: st.DataObject, trim: str, scope: str) -> None:
    density = data.draw(st.lists(st.floats(0, 1), min_size=models, max_size=models))
    deviations = data.draw(st.lists(st.floats(0.1, 2), min_size=models, max_size=models))
    ties_case(
        seed,
        models,
        trim == "magnitude",
        density=density,
        deviations=deviations,
        trim=trim,
        scope=scope,
        weight=[1.0] * models,
    )


@few
@given(seeds, st.integers(1, 4), st.floats(0.05, 0.95), st.sampled_from(["model", "tensor"]))
def test_ties_norm_trim(seed: int, models: int, share: float, scope: str) -> None:
    options = {"density": [share] * models, "weight": [1.0] * models, "deviations": [1.0] * models}
    ties_case(seed, models, False, trim="norm", scope=scope, **options)


def test_ties_given_signs() -> None:
    base, _ = base_and_tuned(3, 3)
    rng = np.random.default_rng(4)
    signs = {name: rng.integers(-1, 2, t.shape).astype(np.float64) for name, t in base.items()}
    ties_case(3, 3, False, density=[0.5] * 3, weight=[1.0, 2.0, 1.0], elect=signs, deviations=[1.0] * 3)


@few
@given(seeds, st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([0.0, 1e-6, 1e-3]), st.data())
def test_fisher(seed: int, models: int, normalize: bool, favor: bool, floor: float, data: st.DataObject) -> None:
    _, tuned = base_and_tuned(seed, models)
    fishers = [fisher_of(seed + i, tuned[0]) if data.draw(st.booleans()) else None for i in range(models)]
    shares = st.just(0.0) | st.floats(1e-9, 2)  # the reference itself loses what is smaller
    weight = data.draw(st.lists(shares, min_size=models, max_size=models).filter(any))
    options = {"fisher": fishers, "weight": weight, "normalize": normalize, "floor": floor, "favor_target": favor}
    assert_close(weft.merge(tuned, method="fisher", **options), reference.fisher(tuned, **options), **EXACTLY)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "fisher"])
def test_narrow_formats_are_rounded_once(method: str, dtype: str) -> None:
    """The result is the float64 answer rounded to the format, give or take the float32 arithmetic before it."""
    base, tuned = base_and_tuned(5, 3, "float32", tied=True)
    fishers = [fisher_of(i, base) for i in range(3)]
    cast = as_bfloat16 if dtype == "bfloat16" else lambda state: {n: t.astype(dtype) for n, t in state.items()}
    base, tuned = cast(base), [cast(t) for t in tuned]
    ones = [1.0] * 3
    exact = {
        "linear": lambda: reference.linear(tuned, ones),
        "task_arithmetic": lambda: reference.task_arithmetic(base, tuned, ones, 0.4),
        "ties": lambda: reference.ties(base, tuned, density=[0.2] * 3, weight=ones),
        "fisher": lambda: reference.fisher(tuned, fisher=fishers, weight=ones),
    }[method]()
    options = {"fisher": fishers} if method == "fisher" else {}
    ours = weft.merge(tuned, base=base, method=method, **options)
    half_ulp = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert {str(t.dtype) for t in ours.values()} == {dtype}
    assert_close(ours, exact, rtol=half_ulp * 1.001, atol=1e-6 if dtype != "float32" else 3e-8)
