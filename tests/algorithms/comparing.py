"""What the tests of single methods share: merges beside their references."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import weft
from tests.drawing import StateDict, base_and_tuned

seeds = st.integers(0, 2**32 - 1)
counts = st.sampled_from([1, 3])
"""Of models: every other number is other machine code, which takes longer to compile than to run."""

few = settings(max_examples=12, deadline=None)


def state(*values: float) -> StateDict:
    """A model of one tensor."""
    return {"w": np.array(values, np.float64)}


def models_of(seed: int, count: int, tied: bool = False) -> tuple[StateDict, list[StateDict]]:
    """A base and models, without the tensor that holds nothing and of which some references cannot take the length."""
    base, tuned = base_and_tuned(seed, count, tied=tied)
    base, *tuned = ({name: t for name, t in model.items() if t.size} for model in (base, *tuned))
    return base, tuned


def merged(method: str, base: StateDict | None, models: list[StateDict], **options: Any) -> StateDict:
    return weft.merge(models, base=base, method=method, **options)


def assert_close(ours: StateDict, theirs: StateDict, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        given = np.asarray(ours[name], np.float64)
        np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol, err_msg=name)
