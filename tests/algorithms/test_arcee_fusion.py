"""Arcee Fusion against an independent reference and a pencil; and that its importances are computed stably."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.algorithms.comparing import assert_close, few, merged, models_of, seeds
from tests.references.blends import arcee_fusion

torch = pytest.importorskip("torch")


@few
@given(seeds)
def test_the_reference(seed: int) -> None:
    base, tuned = models_of(seed, 1)
    assert_close(merged("arcee_fusion", base, tuned), arcee_fusion(base, tuned))


def test_by_hand() -> None:
    """One row, so the divergence is a common factor: sizes 1 2 3 4 9, quartiles 2 3 4, threshold 3 + 1.5 * 2 = 6."""
    base, tuned = {"w": np.zeros((1, 5))}, {"w": np.array([[1.0, -2.0, 3.0, 4.0, -9.0]])}
    assert merged("arcee_fusion", base, [tuned])["w"].tolist() == [[0.0, 0.0, 0.0, 0.0, -9.0]]
    assert merged("arcee_fusion", base, [tuned], fences=0.5)["w"].tolist() == [[0.0, 0.0, 0.0, 4.0, -9.0]]


def test_rows_that_moved_more_matter_more() -> None:
    base = {"w": np.zeros((6, 2))}
    tuned = {"w": np.array([[0.1, 0.0]] * 5 + [[1.0, 0.0]])}
    ours = merged("arcee_fusion", base, [tuned])["w"]
    assert ours[5, 0] == 1.0


def test_divergences_of_nearly_equal_rows_keep_their_digits() -> None:
    """Changes of 1e-6: against the second-order form, half the variance of the change under the distribution."""
    from weft.matrices.arcee_fusion import divergence

    rng = np.random.default_rng(3)
    base = rng.standard_normal((4, 50)) * 0.02
    change = rng.standard_normal((4, 50)) * 1e-6
    ours = divergence(torch.from_numpy(base + change), torch.from_numpy(base)).numpy()[:, 0]
    p = np.exp(base) / np.exp(base).sum(1, keepdims=True)
    moved = (base + change) - base
    expected = 0.5 * ((p * moved**2).sum(1) - (p * moved).sum(1) ** 2)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert (ours > 0).all()


def test_a_divergence_by_hand() -> None:
    """p = (2/3, 1/3) against q = (1/2, 1/2)."""
    from weft.matrices.arcee_fusion import divergence

    ours = divergence(torch.tensor([[np.log(2.0), 0.0]]).double(), torch.zeros(1, 2).double())
    assert float(ours) == pytest.approx(2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3), rel=1e-12)


def test_large_tensors_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = models_of(4, 1)
    whole = merged("arcee_fusion", base, tuned)
    monkeypatch.setattr("weft.matrices.arcee_fusion._AT_ONCE", 10)
    for name, t in merged("arcee_fusion", base, tuned).items():
        np.testing.assert_array_equal(t, whole[name])


def test_rows_that_are_far_apart_have_a_divergence() -> None:
    """All of the mass moves: p log(p / q) = 1 * 1000. Where q / p is too large for a number there is no 0 * inf."""
    from weft.matrices.arcee_fusion import divergence

    tuned, base = torch.tensor([[0.0, 1000.0], [0.0, 1.0]]).double(), torch.tensor([[1000.0, 0.0], [0.0, 1.0]]).double()
    assert divergence(tuned, base).flatten().tolist() == [1000.0, 0.0]
    ours = merged("arcee_fusion", {"w": base.numpy()}, [{"w": tuned.numpy()}], fences=0)
    assert ours["w"].tolist() == tuned.tolist()
