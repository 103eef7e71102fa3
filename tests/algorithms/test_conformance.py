"""Every registered method passes the tests that ship with the package; a new one cannot escape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import weft
from tests.drawing import fisher_of, gram_of
from weft.algorithms.method import Law
from weft.algorithms.registry import METHODS
from weft.testing import MethodTests, State


class Own(MethodTests):
    """The tests, with files for the methods that are made for some."""

    def options(self, base: State, models: Sequence[int]) -> Mapping[str, Any]:
        if self.method == "fisher":
            return {"fisher": [fisher_of(k, base) for k in models]}
        if self.method in ("regmean", "mats"):
            return {"gram": [gram_of(k, base) for k in models]}
        return {}


def _class_of(method: str) -> type[Own]:
    return type(f"Test_{method}", (Own,), {"method": method, "__module__": __name__})


globals().update({f"Test_{method}": _class_of(method) for method in METHODS})


def test_no_method_escapes() -> None:
    classes = [value for value in globals().values() if isinstance(value, type) and issubclass(value, Own)]
    assert {kind.method for kind in classes if kind is not Own} == set(METHODS)


def test_every_formula_can_be_read_on_a_terminal() -> None:
    assert [name for name in METHODS if "θ" not in weft.method(name).formula] == []


@pytest.mark.parametrize(
    ("name", "law"), [("task_arithmetic", Law.COPIES), ("ties", Law.COPIES), ("fisher", Law.ORDER)]
)
def test_a_law_that_does_not_hold_is_seen(name: str, law: Law) -> None:
    """With the defaults these do not hold, so the tests can fail."""
    with pytest.raises(AssertionError):
        _class_of(name)().check_law(law, {})


def test_a_method_that_changes_its_inputs_or_leaves_no_room_for_bounds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tampered suite's answers: the merge writes into a model."""
    own = _class_of("linear")()

    def spoiling(base: State, models: Sequence[State], order: Sequence[int] = (), **options: Any) -> State:
        models[0]["scalar"] += np.float16(1)
        return dict(base)

    monkeypatch.setattr(own, "merged", spoiling)
    with pytest.raises(AssertionError, match="it changed a model"):
        own.test_formats_shapes_and_inputs_stay_what_they_are()
