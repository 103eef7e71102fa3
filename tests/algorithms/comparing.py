"""What the tests of single methods share: merges beside their references."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import weft
from tests.drawing import StateDict

seeds = st.integers(0, 2**32 - 1)
counts = st.sampled_from([1, 3])
"""Of models: every other number is other machine code, which takes longer to compile than to run."""

few = settings(max_examples=12, deadline=None)


def state(*values: float) -> StateDict:
    """A model of one tensor."""
    return {"w": np.array(values)}


def merged(method: str, base: StateDict | None, models: list[StateDict], **options: Any) -> StateDict:
    return weft.merge(models, base=base, method=method, **options)


def assert_close(ours: StateDict, theirs: StateDict, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        given = np.asarray(ours[name], np.float64)
        np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol, err_msg=name)
