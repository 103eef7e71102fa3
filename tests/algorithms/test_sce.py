"""SCE against an independent reference and a pencil."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms.comparing import assert_close, counts, few, merged, models_of, seeds, state
from tests.references.sce import sce


@few
@given(seeds, counts, st.sampled_from([0.0, 0.1, 0.34, 0.7, 1.0]), st.sampled_from([0.0, 1e-6, 1.0]))
def test_the_reference(seed: int, models: int, select: float, least: float) -> None:
    base, tuned = models_of(seed, models)
    assert_close(merged("sce", base, tuned, select=select, least=least), sce(base, tuned, select=select, least=least))


def test_entries_that_tie_with_the_last_selected_one_are_selected_too() -> None:
    """The reference takes the earlier of equals; variances 1, 4, 4, 0 and one of three varying: the threshold is 4."""
    base, a, b = state(0, 0, 0, 0), state(2, 4, 4, 1), state(0, 0, 0, 1)
    assert merged("sce", base, [a, b], select=0.34)["w"].tolist() == [0.0, 4.0, 4.0, 0.0]


def test_by_hand() -> None:
    """Energies (9 + 1) / 2 = 5 and (1 + 4) / 2 = 2.5: (2 * 3 + 1) / 3; the sum -1 leaves b alone."""
    ours = merged("sce", state(0, 0), [state(3, 1), state(1, -2)])["w"]
    np.testing.assert_allclose(ours, [7 / 3, -2], rtol=1e-15)
    even = merged("sce", state(0, 0), [state(3, 1), state(1, -2)], least=10)["w"]
    np.testing.assert_allclose(even, [2, -2], rtol=1e-15)


def test_the_whole_model_may_be_the_scope() -> None:
    base, tuned = models_of(8, 3)
    names = sorted(base)
    flat = [{"": np.concatenate([model[n].reshape(-1) for n in names])} for model in (base, *tuned)]
    ours = merged("sce", base, tuned, select=0.4, scope="model")
    theirs = sce(flat[0], flat[1:], select=0.4, least=0)[""]
    assert_close({"": np.concatenate([ours[n].reshape(-1) for n in names])}, {"": theirs})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tiny_changes_keep_their_energies(dtype: str) -> None:
    """Squares of 1e-6 vanish beside no threshold: weights follow the energies 1 and 9."""
    base = {"w": np.zeros(4, dtype)}
    a, b = {"w": np.full(4, 1e-6, dtype)}, {"w": np.full(4, 3e-6, dtype)}
    x, y = float(a["w"][0]), float(b["w"][0])
    expected = (x**3 + y**3) / (x**2 + y**2)
    np.testing.assert_allclose(merged("sce", base, [a, b])["w"].astype(float), expected, rtol=0.03)


@few
@given(seeds, st.sampled_from([0.05, 0.3, 0.6, 0.95]), st.sampled_from(["model", "tensor"]))
def test_every_pass_selects_the_same_in_float32(seed: int, select: float, scope: str) -> None:
    """Another selection where energies are summed up would miss the square of a whole parameter."""
    rng = np.random.default_rng(seed)
    base = {"w": rng.standard_normal((12, 10)).astype(np.float32)}
    tuned = [{"w": base["w"] + rng.standard_normal((12, 10)).astype(np.float32)} for _ in range(3)]
    theirs = sce(base, tuned, select=select, least=0)
    assert_close(merged("sce", base, tuned, select=select, scope=scope), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("spoilt", [3, 70])
def test_what_is_not_finite_takes_nobodys_place(spoilt: int, scope: str) -> None:
    """It has no variance: of the others as many are selected as without it."""
    rng = np.random.default_rng(0)
    base = {name: np.zeros(100, np.float32) for name in "vw"}
    tuned = [{name: rng.standard_normal(100).astype(np.float32) for name in "vw"} for _ in range(2)]
    tuned[0]["w"][:spoilt] = np.inf
    ours = merged("sce", base, tuned, select=0.1, scope=scope, on_nonfinite="warn")
    chosen = sum(np.count_nonzero(ours[name]) for name in "vw")
    assert chosen == (int(0.1 * (200 - spoilt)) if scope == "model" else 10 + int(0.1 * (100 - spoilt)))
