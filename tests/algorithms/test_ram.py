"""RAM and RAM+ against independent references and a pencil."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms.comparing import assert_close, counts, few, merged, models_of, seeds, state
from tests.references.ram import ram, ram_plus

epsilons = st.sampled_from([0.0, 1e-5, 0.02, 0.1])


@few
@given(seeds, counts, epsilons, st.booleans())
def test_ram_and_its_reference(seed: int, models: int, epsilon: float, tied: bool) -> None:
    base, tuned = models_of(seed, models, tied=tied)
    assert_close(merged("ram", base, tuned, epsilon=epsilon), ram(base, tuned, epsilon=epsilon))


@few
@given(seeds, counts, epsilons, st.floats(0, 2), st.floats(0, 1), st.sampled_from(["model", "tensor"]))
def test_ram_plus_and_its_reference(seed: int, models: int, epsilon: float, r: float, alpha: float, scope: str) -> None:
    base, tuned = models_of(seed, models, tied=True)
    options = {"epsilon": epsilon, "r": r, "alpha": alpha, "scope": scope}
    assert_close(merged("ram+", base, tuned, **options), ram_plus(base, tuned, **options))


def test_by_hand() -> None:
    """a moved 0 and 1 with b, 2 and 3 alone: rho = 2 / 2 = 1, at most 0.5. b moved 4 alone: rho = 2, at most 0.5."""
    a, b = state(2, 4, 1, 3, 0, 0), state(4, 0.5, 0, 0, 8, 0)
    base = state(0, 0, 0, 0, 0, 0)
    assert merged("ram", base, [a, b])["w"].tolist() == [3.0, 2.25, 1.0, 3.0, 8.0, 0.0]
    assert merged("ram+", base, [a, b], r=1, alpha=0.5)["w"].tolist() == [3.0, 2.25, 1.5, 4.5, 12.0, 0.0]


def test_overlap_is_counted_over_the_model_unless_told_otherwise() -> None:
    """In `x` a overlaps 1 of 2, in `y` nowhere: rho 1/3 over the model, 1 and 0 by tensor."""
    base = {"x": np.zeros(2), "y": np.zeros(2)}
    a, b = {"x": np.array([1.0, 1.0]), "y": np.array([1.0, 1.0])}, {"x": np.array([1.0, 0.0]), "y": np.zeros(2)}
    whole = merged("ram+", base, [a, b], r=0.3, alpha=1)
    np.testing.assert_allclose(whole["x"], [1, 1.1], rtol=1e-15)
    np.testing.assert_allclose(whole["y"], [1.1, 1.1], rtol=1e-15)
    local = merged("ram+", base, [a, b], r=0.3, alpha=1, scope="tensor")
    np.testing.assert_allclose(local["x"], [1, 1.3], rtol=1e-15)
    np.testing.assert_allclose(local["y"], [1, 1], rtol=1e-15)
