"""Every registered method keeps the laws that it declares; a new method cannot escape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.drawing import StateDict, base_and_tuned, fisher_of, gram_of
from weft.algorithms.method import Law

DECLARED = [(name, law) for name in weft.methods() for law in weft.method(name).laws]


def merged(name: str, base: StateDict, tuned: list[StateDict], **options: Any) -> StateDict:
    order = options.pop("order", range(len(tuned)))
    if name == "fisher":
        options = {"fisher": [fisher_of(i, base) for i in order], **options}
    if name in ("regmean", "mats"):
        options = {"gram": [gram_of(i, base) for i in order], **options}
    return weft.merge(tuned, base=base, method=name, **options)


def assert_same(one: StateDict, other: StateDict) -> None:
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-12, atol=1e-13, err_msg=name)


def law_holds(name: str, law: Law, options: dict[str, Any]) -> None:
    base, tuned = base_and_tuned(11, 3)
    if law is Law.COPIES:
        assert_same(merged(name, base, [tuned[0]] * 3, **options), tuned[0])
    elif law is Law.ORDER:
        turned = [tuned[2], tuned[0], tuned[1]]
        assert_same(merged(name, base, turned, order=[2, 0, 1], **options), merged(name, base, tuned, **options))
    elif law is Law.ZERO_DELTAS:
        assert_same(merged(name, base, [base] * 3, **options), base)
    elif law is Law.SCALING:
        longer = [{n: base[n] + 3 * (t[n] - base[n]) for n in base} for t in tuned]
        short, long = merged(name, base, tuned, **options), merged(name, base, longer, **options)
        assert_same({n: base[n] + 3 * (short[n] - base[n]) for n in base}, long)


@pytest.mark.parametrize(("name", "law"), DECLARED, ids=lambda p: p.name if isinstance(p, Law) else p)
def test_declared_laws_hold(name: str, law: Law) -> None:
    law_holds(name, law, dict(weft.method(name).laws[law]))


def test_every_method_declares_laws() -> None:
    assert {name for name, _ in DECLARED} == set(weft.methods())


@pytest.mark.parametrize(
    ("name", "law"), [("task_arithmetic", Law.COPIES), ("ties", Law.COPIES), ("fisher", Law.ORDER)]
)
def test_a_law_that_does_not_hold_is_seen(name: str, law: Law) -> None:
    """With the defaults these do not hold, so the check above can fail."""
    with pytest.raises(AssertionError):
        law_holds(name, law, {})
