"""Many small tensors, each a scope of its own, are computed together as they would be one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import weft
from tests.drawing import as_bytes
from weft.engine import executing, joined
from weft.engine.work import Work
from weft.errors import InputError
from weft.kernels.folds import BLOCK, block_sums, sums_of_each

State = dict[str, np.ndarray]

SIZES = (1, 2, 7, 300, 4096, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5)
WAYS: dict[str, dict[str, Any]] = {
    "magnitude": {"density": [0.0, 0.3, 1.0]},
    "deviation": {"trim": "deviation", "elect": "normfrac", "combine": "median", "weight": [0.3, 0.5, -0.7]},
    "norms": {"elect": "normmass", "combine": "magnitude"},
    "share": {"trim": "norm", "density": 0.7},
}


def models(dtype: type = np.float32, count: int = 270, seed: int = 0) -> list[State]:
    """A base and three fine-tunes of so many small tensors, whose changes tie."""
    rng = np.random.default_rng(seed)
    sizes = {f"experts.{k}.weight": SIZES[k % len(SIZES)] if k < 20 else 40 + k % 3 for k in range(count)}
    base = {name: rng.standard_normal(size).astype(dtype) for name, size in sizes.items()}
    changed = lambda t: (t + np.round(rng.standard_normal(t.shape) * 4) / 64).astype(dtype)  # noqa: E731
    return [base, *({name: changed(t) for name, t in base.items()} for _ in range(3))]


def merged(states: list[State], **parameters: Any) -> State:
    return weft.merge(states[1:], base=states[0], method="ties", scope="tensor", workers=2, **parameters)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """The tensors that were left to be computed one by one."""
    every: list[Work] = []

    def watched(*given: Any) -> list[Work]:
        every.extend(found := joined.compute_joined(*given))
        return found

    monkeypatch.setattr(executing, "compute_joined", watched)
    return every


def one_by_one(monkeypatch: pytest.MonkeyPatch, states: list[State], **parameters: Any) -> State:
    with monkeypatch.context() as patch:
        patch.setattr(executing, "_MANY", 1 << 30)
        return merged(states, **parameters)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_same_bytes_as_one_by_one(monkeypatch: pytest.MonkeyPatch, left: list[Work], way: str, dtype: type) -> None:
    states = models(dtype)
    together = merged(states, **WAYS[way])
    assert (len(left) == 0) == (way != "share")  # whose search takes several rounds
    assert as_bytes(together) == as_bytes(one_by_one(monkeypatch, states, **WAYS[way]))


def test_rules_make_kinds(monkeypatch: pytest.MonkeyPatch, left: list[Work]) -> None:
    states = models()
    rules = [
        {"match": "*1.weight", "parameters": {"density": 0.6, "combine": "sum"}},
        {"match": "*5.weight", "parameters": {"scale": 0.5}},
    ]
    together = merged(states, rules=rules)
    assert as_bytes(together) == as_bytes(one_by_one(monkeypatch, states, rules=rules))
    assert len(left) < 60  # those whose neighbours are of another kind


def test_what_is_not_finite_is_told_as_for_one(monkeypatch: pytest.MonkeyPatch, left: list[Work]) -> None:
    states = models()
    states[2]["experts.33.weight"][3] = np.inf
    with pytest.raises(InputError) as told:
        merged(states)
    with pytest.raises(InputError) as alone:
        one_by_one(monkeypatch, states)
    assert str(told.value) == str(alone.value)
    assert "'experts.33.weight'" in str(told.value)
    assert left


def test_a_mask_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    states = models()
    for state in states:
        state["experts.40.weight"][:] = -np.inf
    together = merged(states)
    assert np.array_equal(together["experts.40.weight"], states[0]["experts.40.weight"])
    assert as_bytes(together) == as_bytes(one_by_one(monkeypatch, states))


def test_infinities_may_be_let_through(monkeypatch: pytest.MonkeyPatch, left: list[Work]) -> None:
    states = models()
    states[2]["experts.33.weight"][3] = np.inf
    for policy in ("ignore", "warn"):
        left.clear()
        together = merged(states, on_nonfinite=policy)
        assert as_bytes(together) == as_bytes(one_by_one(monkeypatch, states, on_nonfinite=policy))
        assert (not left) == (policy == "ignore")


def test_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From files, in which tensors lie in another order; broken off at the fourth strip."""
    for name, state in zip(("base", "a", "b", "c"), models(count=600), strict=True):
        save_file(state, tmp_path / f"{name}.safetensors")
    recipe = {
        "method": "ties",
        "base": "base.safetensors",
        "models": [f"{name}.safetensors" for name in "abc"],
        "parameters": {"scope": "tensor"},
        "folder": tmp_path,
    }
    weft.merge_to(recipe, tmp_path / "whole", memory="11MB", workers=1)
    computes, strips = joined._Run.computes, []

    def broken(*given: Any) -> bool:
        strips.append(given)
        if len(strips) == 4:
            raise KeyboardInterrupt
        return computes(*given)

    monkeypatch.setattr(joined._Run, "computes", broken)
    with pytest.raises(KeyboardInterrupt):
        weft.merge_to(recipe, tmp_path / "out", memory="11MB", workers=1)
    report = weft.merge_to(recipe, tmp_path / "out", memory="11MB", workers=1)
    assert report.continued
    written = [(tmp_path / place / "model.safetensors").read_bytes() for place in ("whole", "out")]
    assert written[0] == written[1]


def test_sums_of_each_are_the_block_sums_of_each() -> None:
    values = np.random.default_rng(0).standard_normal(sum(SIZES)).astype(np.float32)
    stops = np.cumsum(SIZES)
    sums, blocks = sums_of_each(values, stops)
    own = [block_sums(part) for part in np.split(values, stops[:-1])]
    assert np.array_equal(sums, np.concatenate(own))
    assert blocks.tolist() == [len(part) for part in own]
