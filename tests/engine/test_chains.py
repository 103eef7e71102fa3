"""Steps before and after a method beside rules, masks and tensors of another precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft

State = dict[str, np.ndarray[Any, Any]]
SHAPES = {"a.w": (8, 5), "b.w": (64,), "c.w": (6, 4)}


def drawn(count: int, dtype: str = "float32") -> list[State]:
    rng = np.random.default_rng(3)
    base = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    return [
        base,
        *({n: (t + 0.1 * rng.standard_normal(t.shape)).astype(dtype) for n, t in base.items()} for _ in range(count)),
    ]


def merged(models: list[State], **asked: Any) -> State:
    base, *tuned = models
    return weft.merge(tuned, base=base, **asked)


def test_a_mask_takes_no_other_tensor_with_it(tmp_path: Path) -> None:
    """It is found while the statistic of one tensor is sought; the first tensor of the scope has none."""
    models = drawn(2)
    for k, model in enumerate(models):
        model["mask"] = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
        save_file(model, tmp_path / f"{k}.safetensors")
    rules = [{"match": "b.w", "before": {"method": "dare", "drop": 0.2, "rescale": "l1"}}]
    recipe = {
        "method": "fisher",
        "parameters": {"normalize": False},
        "base": tmp_path / "0.safetensors",
        "models": [str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")],
        "before": {"method": "dare", "drop": 0.2},
        "rules": rules,
    }
    weft.merge_to(recipe, tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    assert all(np.count_nonzero(out[name]) == out[name].size for name in SHAPES)
    np.testing.assert_array_equal(out["mask"], models[0]["mask"])


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_tensors_beside_one_of_another_precision(workers: int) -> None:
    """What they need is planned in the precision in which they are computed, so nobody waits for memory for ever."""
    models = drawn(2)
    for model in models:
        model["a.w"] = np.resize(model["a.w"], (256, 256))
        model["b.w"] = model["b.w"].astype(np.float64)
    out = merged(models, method="ties", after="svc", workers=workers, memory="40MB")
    assert out["a.w"].shape == (256, 256)


def test_a_change_has_names_of_its_own() -> None:
    """DARE by magnitude and TIES both know a threshold: one of a rule's tensors is not the other's."""
    rules = [{"match": "a.w", "before": {"method": "dare", "select": "magnitude", "drop": 0.9}}]
    models = drawn(1)
    ruled = merged(models, method="ties", density=1.0, before={"method": "dare", "drop": 0.0}, rules=rules)
    alone = merged(models, method="dare", select="magnitude", drop=0.9)
    np.testing.assert_allclose(ruled["a.w"], alone["a.w"], rtol=1e-6)
    np.testing.assert_allclose(ruled["b.w"], models[1]["b.w"], rtol=1e-6)


@pytest.mark.parametrize("ways", [("row", "tensor"), ("tensor", "row")])
def test_a_rule_may_change_task_vectors_in_another_way(ways: tuple[str, str]) -> None:
    common, own = ({"method": "breadcrumbs", "scope": way} for way in ways)
    models = drawn(2)
    ruled = merged(models, method="ties", scope="tensor", before=common, rules=[{"match": "a.w", "before": own}])
    for name, way in (("a.w", own), ("c.w", common)):
        expected = merged(models, method="ties", scope="tensor", before=way)
        np.testing.assert_array_equal(ruled[name], expected[name])


def test_each_tensor_has_its_last_parameter_behind_a_change_of_the_whole_model() -> None:
    """TIES by norm keeps the last one of each tensor; APL before it looks at all tensors."""
    models = drawn(2)
    asked = {
        "method": "ties",
        "scope": "tensor",
        "trim": "norm",
        "density": 0.01,
        "elect": "none",
        "combine": "plain_sum",
    }
    evidence = [{name: np.ones_like(t) for name, t in models[0].items()} for _ in range(2)]
    out = merged(models, before={"method": "apl", "drop": 0.0, "gradient": evidence}, **asked)
    moved = {name: (out[name] - models[0][name]).reshape(-1)[-1] for name in SHAPES}
    assert all(abs(change) > 1e-6 for change in moved.values()), moved


def test_what_comes_after_for_some_changes_nothing_for_the_others() -> None:
    models = drawn(3)
    plain = merged(models, method="ties", density=0.3)
    ruled = merged(models, method="ties", density=0.3, rules=[{"match": "c.w", "after": {"method": "svc"}}])
    for name in ("a.w", "b.w"):
        np.testing.assert_array_equal(ruled[name], plain[name])
