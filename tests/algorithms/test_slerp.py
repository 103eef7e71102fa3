"""Slerp against an independent reference, a pencil and its own degenerate cases."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft
from tests.algorithms.comparing import assert_close, few, merged, models_of, seeds, state
from tests.references import sphere

scopes = st.sampled_from(["tensor", "model"])


@few
@given(seeds, st.floats(0, 1), scopes, st.sampled_from([0.5, 0.9995]))
def test_of_models(seed: int, t: float, scope: str, straight: float) -> None:
    """The reference goes from its base to its model."""
    a, (b,) = models_of(seed, 1)
    ours = merged("slerp", None, [a, b], t=t, scope=scope, straight=straight)
    assert_close(ours, sphere.slerp(a, [b], t=t, scope=scope, straight=straight))


@few
@given(seeds, st.floats(0, 1), scopes)
def test_of_task_vectors(seed: int, t: float, scope: str) -> None:
    base, tuned = models_of(seed, 2)
    ours = merged("slerp", base, tuned, t=t, of="changes", scope=scope)
    assert_close(ours, sphere.slerp_changes(base, tuned, t=t, scope=scope))


def test_by_hand() -> None:
    """A third of the way along a right angle: 30 degrees; the lengths are not interpolated on their own."""
    ours = merged("slerp", None, [state(2, 0), state(0, 2)], t=1 / 3)["w"]
    np.testing.assert_allclose(ours, [sqrt(3), 1], rtol=1e-15)


def test_a_rule_may_give_layers_their_own_t() -> None:
    a, b = (
        {"x": np.array([1.0, 0.0]), "y": np.array([1.0, 0.0])},
        {"x": np.array([0.0, 1.0]), "y": np.array([0.0, 1.0])},
    )
    rules = [{"match": "y", "parameters": {"t": 1}}]
    for scope in ("tensor", "model"):
        ours = weft.merge([a, b], method="slerp", t=0, rules=rules, scope=scope)
        np.testing.assert_allclose(ours["x"], [1, 0], atol=1e-15)
        np.testing.assert_allclose(ours["y"], [0, 1], atol=1e-15)


@pytest.mark.parametrize("b", [state(0, 0), state(2, 2), state(-3, -3)], ids=["zero", "colinear", "opposite"])
@pytest.mark.parametrize("straight", [0.9995, 1.0])
def test_what_has_no_arc_is_joined_by_a_line(b: dict, straight: float) -> None:
    ours = merged("slerp", None, [state(1, 1), b], t=0.25, straight=straight)["w"]
    np.testing.assert_allclose(ours, 0.75 * state(1, 1)["w"] + 0.25 * b["w"], rtol=1e-14)


def test_task_vectors_need_a_base_and_models_do_not() -> None:
    with pytest.raises(weft.InputError, match="method slerp needs a base model"):
        merged("slerp", None, [state(1, 0), state(0, 1)], of="changes")


@pytest.mark.parametrize("count", [1, 3])
def test_it_takes_two_models(count: int) -> None:
    with pytest.raises(weft.InputError, match=f"method slerp merges exactly two models, not {count}"):
        merged("slerp", None, [state(float(k), 1) for k in range(count)])
