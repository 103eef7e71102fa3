"""The Karcher mean against an independent reference, a pencil, its defining property and its degenerate cases."""

from __future__ import annotations

from math import cos, pi, sin, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft
from tests.algorithms.comparing import assert_close, few, merged, models_of, seeds, state
from tests.references import sphere
from weft.algorithms.karcher import karcher_mean

scopes = st.sampled_from(["tensor", "model"])
weights = st.lists(st.floats(0.1, 3), min_size=3, max_size=3)


@few
@given(seeds, weights, scopes)
def test_of_models(seed: int, weight: list[float], scope: str) -> None:
    """Fine-tunes of one base: nearly the same direction."""
    _, tuned = models_of(seed, 3)
    ours = merged("karcher", None, tuned, weight=weight, scope=scope)
    assert_close(ours, sphere.karcher(tuned, weight=weight, scope=scope))


@few
@given(seeds, weights)
def test_of_task_vectors(seed: int, weight: list[float]) -> None:
    """Nearly at right angles; over the whole model, since of few entries some have no unique mean."""
    base, tuned = models_of(seed, 3)
    ours = merged("karcher", base, tuned, weight=weight, of="changes", scope="model")
    assert_close(ours, sphere.karcher(tuned, weight=weight, base=base, scope="model"), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_weighted_arcs_from_the_mean_cancel_out(count: int) -> None:
    """What defines it, checked without an iteration: the logarithms at the mean add up to nothing."""
    rng = np.random.default_rng(count)
    vectors = rng.standard_normal((count, 12)) + 0.8
    weight = tuple(rng.uniform(0.2, 2, count).tolist())
    mean = np.array(karcher_mean((vectors @ vectors.T).tolist(), {"weight": weight})) @ vectors
    here = mean / np.linalg.norm(mean)
    arcs = np.zeros(12)
    for w, vector in zip(weight, vectors):
        unit = vector / np.linalg.norm(vector)
        aside = unit - (unit @ here) * here
        arcs += w * np.arccos(unit @ here) * aside / np.linalg.norm(aside)
    assert np.linalg.norm(arcs) < 1e-12
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(np.linalg.norm(mean), np.average(lengths, weights=weight), rtol=1e-13)


def test_by_hand() -> None:
    """Directions at 0, 30 and 90 degrees of one circle have the mean 40 degrees, which no mean of vectors has."""
    degrees = (0, 30, 90)
    models = [state(2 * cos(d * pi / 180), 2 * sin(d * pi / 180)) for d in degrees]
    ours = merged("karcher", None, models)["w"]
    np.testing.assert_allclose(ours, [2 * cos(40 * pi / 180), 2 * sin(40 * pi / 180)], rtol=1e-12)


def test_two_equal_ones_are_slerp_half_the_way() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 9))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    ours = merged("karcher", None, [{"w": a}, {"w": b}])
    assert_close(ours, merged("slerp", None, [{"w": a}, {"w": b}], t=0.5))


def test_zero_ones_count_in_the_length_alone() -> None:
    ours = merged("karcher", None, [state(0, 0), state(3, 0)], weight=[1, 2])["w"]
    np.testing.assert_allclose(ours, [2, 0], rtol=1e-15)
    assert merged("karcher", None, [state(0, 0), state(0, 0)])["w"].tolist() == [0.0, 0.0]


def test_opposite_ones_take_the_heavier_or_the_first() -> None:
    a, b = state(1, 0), state(-3, 0)
    np.testing.assert_allclose(merged("karcher", None, [a, b])["w"], [2, 0], atol=1e-12)
    np.testing.assert_allclose(merged("karcher", None, [b, a])["w"], [-2, 0], atol=1e-12)
    aside = merged("karcher", None, [a, b, state(0, 2)])["w"]
    np.testing.assert_allclose(aside, [0, 2], atol=1e-12)


def test_three_that_cancel_end_at_a_finite_mean_of_their_length() -> None:
    """Every point of the circle is as good; what is promised is a point of it."""
    models = [state(cos(k * 2 * pi / 3), sin(k * 2 * pi / 3)) for k in range(3)]
    ours = merged("karcher", None, models)["w"]
    np.testing.assert_allclose(sqrt(float(ours @ ours)), 1, rtol=1e-9)


def test_somebody_must_count() -> None:
    with pytest.raises(weft.InputError, match="all weights are 0"):
        merged("karcher", None, [state(1), state(2)], weight=0)
    with pytest.raises(weft.InputError, match="method karcher needs a base model"):
        merged("karcher", None, [state(1), state(2)], of="changes")
