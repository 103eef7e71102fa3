"""Model Stock against two programs' outputs, an independent reference and a pencil."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft
from tests.algorithms.comparing import assert_close, few, merged, models_of, seeds, state
from tests.drawing import StateDict
from tests.golden_cases import Case, cases
from tests.references.model_stock import model_stock
from weft.algorithms.model_stock import stock


@pytest.mark.parametrize("case", cases("model_stock").values(), ids=lambda c: c.id)
def test_fusionbench(case: Case) -> None:
    """It averages the ignored tensors, which is a rule here."""
    ignored = case.options["ignore_keys"]
    rules = [{"match": ignored, "method": "linear"}] if ignored else []
    ours = weft.merge(case.models, base=case.base, method="model_stock", rules=rules)
    case.assert_close(ours, case.outputs("out"))


@pytest.mark.parametrize("case", [c for c in cases("mergekit").values() if "stock" in c.id], ids=lambda c: c.id)
def test_mergekit(case: Case) -> None:
    scope = "row" if case.options["filter_wise"] else "tensor"
    ours = merged("model_stock", case.base, case.models, average="cosine", scope=scope)
    case.assert_close(ours, case.outputs("out"))


@few
@given(seeds, st.sampled_from([2, 3]), st.sampled_from(["angle", "cosine"]), st.booleans())
@pytest.mark.parametrize("scope", ["tensor", "model", "row"])
def test_the_reference(scope: str, seed: int, models: int, average: str, clamp: bool) -> None:
    """The reference has the programs' guards of the division, which matter where task vectors are nearly opposite.

    So numbers alone, whose task vectors are on one line, are left out, and of short rows t is clamped.
    """
    base, *tuned = ({n: t for n, t in m.items() if t.ndim} for m in flattened(models_of(seed, models)))
    options = {"average": average, "scope": scope, "clamp": clamp or scope == "row"}
    ours = merged("model_stock", base, tuned, **options)
    assert_close(ours, model_stock(base, tuned, **options), rtol=1e-3, atol=1e-5)


def flattened(pair: tuple[StateDict, list[StateDict]]) -> list[StateDict]:
    return [pair[0], *pair[1]]


def test_by_hand() -> None:
    """Right angles: nothing. 60 degrees: 2 * 0.5 / 1.5 of the way. Task vectors that are equal: all of it."""
    base = {name: np.zeros(2) for name in "xyz"}
    a = {"x": np.array([1.0, 0.0]), "y": np.array([1.0, 0.0]), "z": np.array([1.0, 2.0])}
    b = {"x": np.array([0.0, 5.0]), "y": np.array([0.5, 3**0.5 / 2]), "z": np.array([1.0, 2.0])}
    ours = merged("model_stock", base, [a, b])
    assert ours["x"].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(ours["y"], [0.5, 3**0.5 / 6], rtol=1e-14)
    np.testing.assert_allclose(ours["z"], [1, 2], rtol=1e-14)


def test_every_row_by_itself() -> None:
    base = {"w": np.zeros((2, 2))}
    a, b = {"w": np.array([[1.0, 0.0], [2.0, 2.0]])}, {"w": np.array([[0.0, 1.0], [2.0, 2.0]])}
    assert_close(merged("model_stock", base, [a, b], scope="row"), {"w": np.array([[0.0, 0.0], [2.0, 2.0]])})


@pytest.mark.parametrize("scope", ["tensor", "model", "row"])
def test_opposite_ones_and_zero_ones_leave_the_base(scope: str) -> None:
    base = state(1, 1)
    opposite = [state(2, 1), state(0, 1)]
    assert_close(merged("model_stock", base, opposite, scope=scope), base)
    assert_close(merged("model_stock", base, [base, base, base], scope=scope), base)
    assert_close(merged("model_stock", base, [base, state(3, 1)], scope=scope), base)


def test_a_negative_cosine_leads_away_unless_clamped() -> None:
    gram = [[1.0, -0.2], [-0.2, 1.0]]
    assert stock(gram, {}, "cosine", False)[0] == pytest.approx(-0.25)
    assert stock(gram, {}, "cosine", True) == (0.0, 0.0)


def test_it_takes_two_models_or_more() -> None:
    with pytest.raises(weft.InputError, match=r"model_stock merges two or more models, not 1 \(model_0\)"):
        merged("model_stock", state(1), [state(2)])


def test_rows_that_are_not_finite_have_the_mean() -> None:
    base = {"w": np.zeros((2, 2)), "e": np.zeros((0, 3))}
    a, b = base | {"w": np.array([[1.0, np.inf], [2.0, 0.0]])}, base | {"w": np.array([[0.0, 1.0], [0.0, 4.0]])}
    ours = merged("model_stock", base, [a, b], scope="row", on_nonfinite="warn")
    assert ours["w"].tolist() == [[0.5, np.inf], [1.0, 2.0]]
    assert ours["e"].shape == (0, 3)
