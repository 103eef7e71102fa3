"""NearSwap against an independent reference and a pencil."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft
from tests.algorithms.comparing import assert_close, few, merged, seeds, state
from tests.drawing import base_and_tuned
from tests.references.blends import nearswap


@few
@given(seeds, st.sampled_from([0.0, 1e-9, 1e-4, 0.02, 0.1, 3.0]))
def test_the_reference(seed: int, t: float) -> None:
    base, tuned = base_and_tuned(seed, 1)
    assert_close(merged("nearswap", base, tuned, t=t), nearswap(base, tuned, t=t))


def test_by_hand() -> None:
    assert merged("nearswap", state(1, 1, 1), [state(1.25, 3, -2)], t=0.5)["w"].tolist() == [1.25, 1.5, 0.5]


def test_it_takes_one_model_beside_the_base() -> None:
    with pytest.raises(weft.InputError) as error:
        merged("nearswap", state(1), [state(2), state(3)])
    assert str(error.value) == (
        "method nearswap merges exactly one model, not 2 (model_0, model_1)\n"
        "  -> name exactly one model; the base is none of them"
    )
