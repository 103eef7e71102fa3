"""Consensus task arithmetic against an independent reference and a pencil."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms.comparing import assert_close, counts, few, merged, seeds, state
from tests.drawing import base_and_tuned
from tests.references.consensus import consensus


@few
@given(seeds, counts, st.integers(0, 4), st.floats(-2, 2), st.booleans(), st.data())
def test_the_reference(seed: int, models: int, agree: int, scale: float, tied: bool, data: st.DataObject) -> None:
    """Shares of eighths and weights of quarters keep the comparisons of tied changes exact on both sides."""
    base, tuned = base_and_tuned(seed, models, tied=tied)
    eighths = st.integers(0, 12).map(lambda k: k / 8)
    share = data.draw(st.lists(eighths, min_size=models, max_size=models))
    weight = data.draw(st.lists(st.sampled_from([1.0, 0.5, -0.25]), min_size=models, max_size=models))
    options = {"share": share, "agree": agree, "weight": weight, "scale": scale}
    assert_close(merged("consensus", base, tuned, **options), consensus(base, tuned, **options))


def test_by_hand() -> None:
    """Entry 0: sum 6, 4 >= 0.5 * 2 and 2 >= 0.5 * 4, both. Entry 1: sum 5, only 5 >= 0.5 * 0, not 0 >= 0.5 * 5.

    Entry 2: sum 1, 3 >= 0.5 * |1 - 3| and 2 >= 0.5 * |1 + 2|: they matter to both though they oppose each other.
    """
    a, b = state(4, 5, 3), state(2, 0, -2)
    ours = merged("consensus", state(0, 0, 0), [a, b], share=0.5, scale=1)["w"]
    assert ours.tolist() == [6.0, 0.0, 1.0]
    one = merged("consensus", state(0, 0, 0), [a, b], share=0.5, agree=1, scale=1)["w"]
    assert one.tolist() == [6.0, 5.0, 1.0]


def test_with_no_vote_needed_it_is_task_arithmetic() -> None:
    base, tuned = base_and_tuned(2, 3)
    ours = merged("consensus", base, tuned, agree=0, scale=0.3)
    for name, t in merged("task_arithmetic", base, tuned, scale=0.3).items():
        np.testing.assert_array_equal(ours[name], t)
