"""Ranks of one expression are found in one pass: the same numbers as one after the other, with fewer reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from weft.algorithms.registry import METHODS
from weft.engine import passes, settling
from weft.engine.together import groups

CASES: list[tuple[str, dict[str, Any]]] = [
    ("pcb", {}),
    ("pcb", {"ratio": 0.3, "scope": "tensor"}),
    ("breadcrumbs", {"scope": "tensor"}),
    ("breadcrumbs", {"scope": "tensor", "density": [0.3, 0.15, 0.6], "gamma": [0.0, 0.1, 0.02]}),
    ("dppa", {}),
]


def models(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    shapes = {"layers.0.w": (300, 700), "layers.1.w": (20, 9), "layers.2.b": (5,), "layers.3.w": (128, 2048)}
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(count + 1)]


def merged(method: str, parameters: dict[str, Any], tile: int) -> dict[str, np.ndarray]:
    base, *tuned = models()
    return weft.merge(tuned, base=base, method=method, memory=tile, **parameters)


@pytest.mark.parametrize(("method", "parameters"), CASES)
@pytest.mark.parametrize("memory", ["64MB", "1GiB"])
def test_the_same_numbers_as_one_after_the_other(
    method: str, parameters: dict[str, Any], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    found = passes._found

    def noted(sweep: Any, key: Any, statistics: Any) -> Any:
        asked.append(len(statistics))
        return found(sweep, key, statistics)

    monkeypatch.setattr(passes, "_found", noted)
    together = merged(method, parameters, memory)
    assert max(asked) == 2
    monkeypatch.setattr(settling, "groups", lambda program: [[stage] for stage in program.stages])
    before = len(asked)
    apart = merged(method, parameters, memory)
    assert max(asked[before:]) == 1
    assert sum(asked[before:]) == sum(asked[:before])
    for name, values in apart.items():
        np.testing.assert_array_equal(together[name], values)


def test_tensors_under_other_rules_may_ask_for_less() -> None:
    """A tensor whose task vectors are changed another way is no part of what is found."""
    base, *tuned = models()
    rules = [{"match": "layers.1.*", "before": {"method": "dare", "select": "magnitude"}}]
    first = {"method": "breadcrumbs", "scope": "tensor"}
    whole = weft.merge(tuned, base=base, method="linear", before=first, rules=rules)
    plain = weft.merge(tuned, base=base, method="linear", before=first)
    np.testing.assert_array_equal(whole["layers.0.w"], plain["layers.0.w"])
    assert not np.array_equal(whole["layers.1.w"], plain["layers.1.w"])


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"mats", "regmean"}))
def test_groups_leave_the_order_as_it_is(name: str) -> None:
    method = METHODS[name].resolved(["a", "b"][: METHODS[name].models[-1] or 2])
    program = method.program()
    assert [stage for group in groups(program) for stage in group] == list(program.stages)
