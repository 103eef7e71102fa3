"""Passthrough against an independent reference; and its one model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft
from tests.algorithms.comparing import assert_close, few, merged, seeds, state
from tests.drawing import base_and_tuned
from tests.references.blends import passthrough


@few
@given(seeds, st.floats(-3, 3), st.booleans())
def test_the_reference(seed: int, factor: float, with_base: bool) -> None:
    """A base changes nothing; in mergekit it would be a second input."""
    base, tuned = base_and_tuned(seed, 1)
    ours = merged("passthrough", base if with_base else None, tuned, scale=factor)
    assert_close(ours, passthrough(tuned, factor=factor))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_as_it_is_bit_by_bit(dtype: str) -> None:
    _, (model,) = base_and_tuned(3, 1, dtype)
    for name, t in merged("passthrough", None, [model]).items():
        assert t.dtype == dtype
        np.testing.assert_array_equal(t, model[name])


def test_it_takes_one_model() -> None:
    with pytest.raises(weft.InputError, match=r"passthrough merges exactly one model, not 2 \(model_0, model_1\)"):
        merged("passthrough", None, [state(2), state(3)])


def test_a_rule_may_scale_some_tensors() -> None:
    model = {"a": np.array([2.0]), "b": np.array([4.0])}
    rules = [{"match": "b", "parameters": {"scale": 0.25}}]
    assert {n: float(t[0]) for n, t in weft.merge([model], method="passthrough", rules=rules).items()} == {
        "a": 2,
        "b": 1,
    }
