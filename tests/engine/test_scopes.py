"""What a statistic is about: whole models, single tensors, and tensors under different rules."""

from __future__ import annotations

import numpy as np
import pytest

import weft
from tests import reference
from tests.drawing import base_and_tuned
from weft.algorithms.passthrough import Passthrough
from weft.algorithms.program import Program, Rank, Statistic
from weft.kernels.element import element

ONES = [1.0, 1.0, 1.0]


def assert_close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], names: list[str]) -> None:
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_each_tensor_meets_the_threshold_for_its_own_density() -> None:
    """The population is everything that is merged with TIES, whatever a rule says about its density."""
    base, tuned = base_and_tuned(1, 3)
    rules = [{"match": "embed", "parameters": {"density": 0.6}}]
    ours = weft.merge(tuned, base=base, method="ties", rules=rules)
    dense = reference.ties(base, tuned, density=[0.6] * 3, weight=ONES)
    sparse = reference.ties(base, tuned, density=[0.2] * 3, weight=ONES)
    assert_close(ours, dense, ["embed"])
    assert_close(ours, sparse, [name for name in base if name != "embed"])


def test_tensors_merged_otherwise_are_not_in_the_population() -> None:
    base, tuned = base_and_tuned(2, 3)
    rules = [{"match": "embed", "method": "linear"}, {"match": "layers.2.b", "use": "base"}]
    ours = weft.merge(tuned, base=base, method="ties", rules=rules)
    rest = [name for name in base if name not in ("embed", "layers.2.b")]
    alone = reference.ties(
        {n: base[n] for n in rest}, [{n: t[n] for n in rest} for t in tuned], density=[0.2] * 3, weight=ONES
    )
    assert_close(ours, alone, rest)
    assert_close(ours, reference.linear(tuned, ONES), ["embed"])
    assert np.array_equal(ours["layers.2.b"], base["layers.2.b"])


def test_options_may_differ_by_rule_and_share_the_population() -> None:
    base, tuned = base_and_tuned(3, 3, tied=True)
    rules = [{"match": "embed", "parameters": {"combine": "sum", "elect": "frequency"}}]
    ours = weft.merge(tuned, base=base, method="ties", rules=rules)
    changed = reference.ties(base, tuned, density=[0.2] * 3, weight=ONES, combine="sum", elect="frequency")
    assert_close(ours, changed, ["embed"])
    assert_close(ours, reference.ties(base, tuned, density=[0.2] * 3, weight=ONES), ["layers.10.w", "layers.2.w"])


def test_one_tensor_may_have_a_scope_of_its_own() -> None:
    base, tuned = base_and_tuned(4, 3)
    rules = [{"match": "embed", "parameters": {"scope": "tensor"}}]
    ours = weft.merge(tuned, base=base, method="ties", rules=rules)
    assert_close(ours, reference.ties(base, tuned, density=[0.2] * 3, weight=ONES, scope="tensor"), ["embed"])


def test_a_double_precision_tensor_makes_the_whole_scope_double() -> None:
    """Thresholds come from all tensors, so none may be compared in a coarser precision."""
    base, tuned = base_and_tuned(5, 3)
    narrow = {"layers.10.w", "layers.2.w"}
    base = {n: t.astype(np.float32) if n in narrow else t for n, t in base.items()}
    tuned = [{n: x.astype(np.float32) if n in narrow else x for n, x in t.items()} for t in tuned]
    ours = weft.merge(tuned, base=base, method="ties", density=0.5)
    exact = reference.ties(base, tuned, density=[0.5] * 3, weight=ONES)
    for name in base:
        np.testing.assert_allclose(ours[name], exact[name], rtol=1e-6 if name in narrow else 1e-12, atol=1e-9)


def test_norms_in_metadata_are_believed_and_nothing_is_measured(tmp_path) -> None:
    from safetensors.numpy import save_file

    _, tuned = base_and_tuned(6, 2)
    tuned = [{n: t for n, t in m.items() if t.size} for m in tuned]
    fishers = [{n: np.abs(t) for n, t in m.items()} for m in tuned]
    paths = []
    for k, (fisher, norm) in enumerate(zip(fishers, ["2.0", "8.0"], strict=True)):
        paths.append(tmp_path / f"{k}.safetensors")
        save_file({n: np.asarray(t) for n, t in fisher.items()}, paths[-1], {"norm": norm})
    ours = weft.merge(tuned, method="fisher", fisher=paths, favor_target=False)
    believed = reference.fisher(tuned, fisher=fishers, weight=[1 / 2, 1 / 8], normalize=False, favor_target=False)
    assert_close(ours, believed, list(ours))


@element
def _square(base: float, tuned: tuple[float, ...]) -> float:
    return (tuned[0] - base) * (tuned[0] - base) / 1e-60


@element
def _middle(base: float, tuned: tuple[float, ...], middle: float) -> float:
    return middle


def _half(count: int, share: float) -> int:
    return int(share * count)


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_an_order_statistic_may_be_in_double_precision(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares that vanish in float32 are told apart, with a sample and without."""
    middle = Statistic("middle", _square, Rank(_half, by="share"), double=True)
    program = Program(_middle, statistics=(middle,), values={"share": 0.5}, whole_model=True)
    monkeypatch.setattr(Passthrough, "program", lambda self: program)
    tuned = {n: np.random.default_rng(ord(n)).random(size, np.float32) * np.float32(1e-30) for n in "ab"}
    base = {n: np.zeros(size, np.float32) for n in "ab"}
    ours = weft.merge([tuned], base=base, method="passthrough")
    squares = np.sort(np.concatenate([tuned[n].astype(np.float64) ** 2 for n in "ab"]))
    np.testing.assert_allclose(ours["a"][0], squares[size - 1] / 1e-60, rtol=1e-6)
