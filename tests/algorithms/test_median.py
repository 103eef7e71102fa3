"""The median against an independent reference and a pencil."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms.comparing import assert_close, few, merged, seeds, state
from tests.drawing import base_and_tuned
from tests.references.blends import median


@few
@given(seeds, st.sampled_from([1, 4, 5]), st.booleans(), st.booleans(), st.booleans())
def test_the_reference(seed: int, models: int, lower: bool, tied: bool, with_base: bool) -> None:
    base, tuned = base_and_tuned(seed, models, tied=tied)
    ours = merged("median", base if with_base else None, tuned, middle="lower" if lower else "mean")
    assert_close(ours, median(tuned, lower=lower))


@pytest.mark.parametrize(("middle", "expected"), [("mean", [2.0, 3.0]), ("lower", [1.0, 3.0])])
def test_by_hand(middle: str, expected: list[float]) -> None:
    models = [state(1, 3), state(9, 3), state(3, 3), state(-5, 7)]
    assert merged("median", None, models, middle=middle)["w"].tolist() == expected
