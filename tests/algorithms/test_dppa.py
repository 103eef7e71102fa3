"""DPPA: what the official code computes; which tensors it prunes, and by how much."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import weft
from tests.algorithms.sparse import assert_close, changed, models, same_bytes
from tests.golden_cases import StateDict, cases
from tests.references import dppa as reference
from weft.algorithms.dppa import deviations, is_pruned, layer_of
from weft.algorithms.program import Numbers

(CASE,) = cases("dppa").values()
SHAPES = {
    **{f"model.layers.{k}.{name}.weight": (20 + k, 30) for k in range(4) for name in ("up", "down")},
    **{f"model.layers.{k}.norm.weight": (30,) for k in range(4)},
    "model.layers.2.mlp.experts.7.weight": (11, 30),
    "model.layers.2.mlp.stacked": (3, 4, 5),
    "model.embed_tokens.weight": (50, 30),
    "lm_head.weight": (50, 30),
}


def fine_tunes(seed: int, count: int) -> tuple[StateDict, list[StateDict]]:
    """Changes with heavier tails in some tensors than in others."""
    base, tuned = models(seed, count, SHAPES)
    rng = np.random.default_rng(seed)
    for model in tuned:
        for k, name in enumerate(sorted(base)):
            model[name] = base[name] + rng.standard_t(2 + k, base[name].shape) / 8
    return base, tuned


def layers() -> list[list[str]]:
    """The tensors that are pruned, layer by layer."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(SHAPES):
        if name.startswith("model.layers") and name.endswith(".weight") and "norm" not in name:
            found[name.split(".")[2]].append(name)
    return list(found.values())


def golden(**options: Any) -> StateDict:
    hyper = CASE.options
    levels = {"sparse": hyper["sparsity_hi"], "dense": hyper["sparsity_lo"]}
    common = {"spread": hyper["Lamda"], "outliers": hyper["Hyper_m"], **levels}
    return changed(CASE.inputs("delta"), "dppa", **common, **options)


def test_golden_pruning() -> None:
    CASE.assert_close(golden(sparse_factor=1, dense_factor=0), CASE.outputs("pruned_hi"))
    CASE.assert_close(golden(sparse_factor=0, dense_factor=1), CASE.outputs("pruned_lo"))


@pytest.mark.parametrize("index", range(4))
def test_golden_amplification(index: int) -> None:
    factors = CASE.options["amplification"][index]
    ours = golden(sparse_factor=factors["nine"], dense_factor=factors["eight"])
    CASE.assert_close(ours, CASE.outputs(f"amplified{index}"))


def test_against_the_reference() -> None:
    base, tuned = fine_tunes(1, 3)
    high, low, weight = [1.8, 2.0, 1.0], [0.0, 1.1, 1.9], [1.0, -0.5, 2.0]
    ours = weft.merge(tuned, base=base, method="dppa", sparse_factor=high, dense_factor=low, weight=weight)
    factors = list(zip(high, low, strict=True))
    assert_close(ours, reference.dppa(base, tuned, layers=layers(), amplification=factors, weight=weight))


@pytest.mark.parametrize(("sparse", "dense"), [(0.99, 0.0), (1.0, 0.5), (0.3, 0.6)])
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_densities_out_of_range_are_clamped(sparse: float, dense: float, spread: float) -> None:
    base, tuned = fine_tunes(2, 1)
    options = {"sparse": sparse, "dense": dense, "spread": spread, "outliers": 2.0}
    ours = weft.merge(tuned, base=base, method="dppa", sparse_factor=1.5, dense_factor=1.2, **options)
    given = {"sparsity": (sparse, dense), "limit": spread, "factor": 2.0}
    theirs = reference.dppa(base, tuned, layers=layers(), amplification=[(1.5, 1.2)], weight=[1.0], **given)
    assert_close(ours, theirs)


def test_only_linear_weights_in_layers_are_pruned() -> None:
    base, tuned = fine_tunes(3, 1)
    ours = weft.merge(tuned, base=base, method="dppa", sparse_factor=1.0, dense_factor=0.5)
    pruned = {name for layer in layers() for name in layer}
    for name in base:
        if name in pruned:
            assert 0.6 < (ours[name] == base[name]).mean() < 1
        else:
            np.testing.assert_allclose(ours[name], tuned[0][name], rtol=1e-14)
        assert is_pruned(Numbers(name, SHAPES[name], {})) is (name in pruned)


def test_a_layer_is_its_name_up_to_the_number() -> None:
    assert layer_of("encoder.block.10.wq") != layer_of("decoder.block.10.wq")
    assert [layer_of(name) for name in ("layers.1.a", "h1.w", "w.1", "0.q")] == ["layers.1", "", "", "0"]


def test_where_outliers_are_alike_densities_are_too() -> None:
    """Equal changes: no outlier anywhere, and nothing divided by zero. All are tied, so all are dropped."""
    delta = {f"layers.{k}.w": np.ones((4, 5)) for k in range(3)}
    ours = changed(delta, "dppa")
    assert all((t == 0).all() for t in ours.values())
    assert deviations([0.0, 0.0]) == [0.0, 0.0]


def test_by_hand() -> None:
    """One weight of ten, 1 to 10: no outliers, densities 0.2 and 0.5; 9 and 10 doubled, 6 to 8 as they are."""
    delta = {"layers.0.w": np.arange(1.0, 11.0).reshape(2, 5)}
    ours = changed(delta, "dppa", sparse=0.8, dense=0.5, sparse_factor=2.0, dense_factor=1.0)["layers.0.w"]
    assert ours.ravel().tolist() == [0, 0, 0, 0, 0, 0, 7, 8, 9, 20], "int(10 * (1 - 0.2)) + 1 = 9 are dropped, and 6"


def test_without_layers_everything_is_enlarged() -> None:
    base, tuned = models(4, 1, {"w": (4, 5), "b": (3,)})
    ours = weft.merge(tuned, base=base, method="dppa", sparse_factor=1.5)
    assert_close(ours, {n: base[n] + 1.5 * (tuned[0][n] - base[n]) for n in base})


def test_before_ties() -> None:
    base, tuned = fine_tunes(5, 2)
    amplified = [weft.merge([model], base=base, method="dppa") for model in tuned]
    ours = weft.merge(tuned, base=base, method="ties", before={"method": "dppa"}, density=0.3)
    assert_close(ours, weft.merge(amplified, base=base, method="ties", density=0.3), rtol=1e-10)


def test_rules_may_give_a_layer_its_own_sparsity() -> None:
    """Outliers are those of all layers; the sparsity is the tensor's."""
    base, tuned = fine_tunes(6, 1)
    plain, sparser = (weft.merge(tuned, base=base, method="dppa", sparse=s) for s in (0.9, 0.95))
    rules = [{"match": "*.layers.2.*", "parameters": {"sparse": 0.95}}]
    ours = weft.merge(tuned, base=base, method="dppa", rules=rules)
    assert_close(ours, {n: (sparser if ".layers.2." in n else plain)[n] for n in base})


def test_the_same_bytes_for_any_tile_and_worker(tmp_path: Any) -> None:
    base, tuned = models(7, 2, {"layers.0.w": (700, 130), "layers.1.w": (3, 70001), "b": (70001,)})
    parts = {"method": "dppa", "base": base, "models": tuned, "parameters": {}}
    same_bytes(parts, weft.merge(tuned, base=base, method="dppa"), tmp_path)
