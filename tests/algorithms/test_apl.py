"""APL: what it reduces to, and what its importances, ratios and weights are; no official code exists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.algorithms.sparse import assert_close, drawn_masks, models, same_bytes
from tests.golden_cases import StateDict
from weft.errors import InputError

SHAPES = {"layers.0.up": (12, 40), "layers.0.b": (40,), "layers.1.up": (30, 20), "head": (33, 7), "number": ()}
PARTS = {
    "layer": [["layers.0.up", "layers.0.b"], ["layers.1.up"], ["head"], ["number"]],
    "tensor": [[name] for name in SHAPES],
    "model": [list(SHAPES)],
}


def gradients(seed: int, count: int) -> list[StateDict]:
    rng = np.random.default_rng([seed, 5])
    return [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(count)]


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    grown = np.exp(values - values.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def reference(
    base: StateDict,
    tuned: list[StateDict],
    evidence: list[StateDict],
    masks: list[StateDict],
    *,
    drop: list[float],
    partition: str,
    given: str,
    temperatures: tuple[float, float],
) -> tuple[StateDict, np.ndarray]:
    """The formulas in numpy; the merged model and the drop ratios, shape [models, parts]."""
    parts = PARTS[partition]
    importance = np.empty((len(tuned), len(parts)))
    for i, (model, known) in enumerate(zip(tuned, evidence, strict=True)):
        for p, names in enumerate(parts):
            effects = np.concatenate([((model[n] - base[n]) * known[n]).ravel() for n in names])
            told = np.concatenate([known[n].ravel() for n in names])
            importance[i, p] = abs(effects.sum()) if given == "gradient" else told.mean()
    ratios = np.array(drop)[:, None] * len(parts) * softmax(-importance / temperatures[0], 1)
    ratios = np.minimum(ratios, 0.99)
    weights = len(tuned) * softmax(importance / temperatures[1], 0)
    merged = {name: t.copy() for name, t in base.items()}
    for p, names in enumerate(parts):
        for name in names:
            for i, model in enumerate(tuned):
                kept = np.where(masks[i][name], model[name] - base[name], 0.0)
                merged[name] = merged[name] + weights[i, p] * kept / (1 - ratios[i, p])
    return merged, ratios


@pytest.mark.parametrize("partition", ["layer", "tensor", "model"])
@pytest.mark.parametrize("given", ["gradient", "importance"])
def test_against_the_reference(partition: str, given: str) -> None:
    base, tuned = models(1, 3, SHAPES)
    known, drop, temperatures = gradients(1, 3), [0.2, 0.4, 0.7], (3.0, 2.0)
    options = {
        "drop": drop,
        given: known,
        "partition": partition,
        "drop_temperature": temperatures[0],
        "weight_temperature": temperatures[1],
    }
    masks = drawn_masks("apl", base, tuned, **options) if given == "importance" else seen(base, tuned, options)
    ours = weft.merge(tuned, base=base, method="apl", **options)
    theirs, ratios = reference(
        base, tuned, known, masks, drop=drop, partition=partition, given=given, temperatures=temperatures
    )
    assert_close(ours, theirs, rtol=1e-10)
    for p, names in enumerate(PARTS[partition]):
        kept = np.concatenate([masks[0][name].ravel() for name in names])
        assert abs(kept.mean() - (1 - ratios[0, p])) < 5 * np.sqrt(0.25 / kept.size)


def seen(base: StateDict, tuned: list[StateDict], options: dict[str, Any]) -> list[StateDict]:
    """What is kept of each model, seen when all others weigh nothing."""
    masks = []
    for i in range(len(tuned)):
        weight = [float(k == i) for k in range(len(tuned))]
        merged = weft.merge(tuned, base=base, method="apl", weight=weight, **options)
        masks.append({name: merged[name] != base[name] for name in base})
    return masks


def test_dropping_nothing_is_weighted_task_arithmetic() -> None:
    """Importances 0 and ln 3: weights 2 * 1/4 and 2 * 3/4, in every part."""
    base, tuned = models(2, 2, SHAPES)
    known = [{n: np.full(s, value) for n, s in SHAPES.items()} for value in (0.0, np.log(3.0))]
    ours = weft.merge(tuned, base=base, method="apl", drop=0, importance=known)
    assert_close(ours, weft.merge(tuned, base=base, method="task_arithmetic", weight=[0.5, 1.5], scale=1), rtol=1e-11)


@pytest.mark.parametrize("partition", ["layer", "tensor", "model"])
def test_with_high_temperatures_it_is_dare(partition: str) -> None:
    base, tuned = models(3, 3, SHAPES)
    hot = {"drop_temperature": 1e15, "weight_temperature": 1e15, "partition": partition}
    ours = weft.merge(tuned, base=base, method="apl", drop=0.4, gradient=gradients(3, 3), seed=9, **hot)
    assert_close(ours, weft.merge(tuned, base=base, method="dare", drop=0.4, seed=9), rtol=1e-9)


def test_without_gradients_it_is_dare() -> None:
    base, tuned = models(4, 3, SHAPES)
    ours = weft.merge(tuned, base=base, method="apl", drop=0.4, seed=9)
    assert_close(ours, weft.merge(tuned, base=base, method="dare", drop=0.4, seed=9))


def test_a_layer_that_did_not_change_does_not_matter() -> None:
    """Importance 0: its share is the largest of all, and the other model weighs more there."""
    base, tuned = models(5, 2, SHAPES)
    for name in ("layers.0.up", "layers.0.b"):
        tuned[0][name] = base[name]
    ones = [{name: np.ones(shape) for name, shape in SHAPES.items()}] * 2
    options = {"drop": 0, "gradient": ones, "weight_temperature": 1e-6}
    ours = weft.merge(tuned, base=base, method="apl", **options)
    np.testing.assert_allclose(
        ours["layers.0.up"], base["layers.0.up"] + 2 * (tuned[1]["layers.0.up"] - base["layers.0.up"]), rtol=1e-12
    )


def test_by_hand() -> None:
    """Importances |1 - 3| = 2 and |2 + 2| = 4 of one layer, 0 and 0 of the other, tau2 = 2 / ln 3: 1/2 and 3/2."""
    base = {"layers.0.w": np.zeros(2), "layers.1.w": np.zeros(1)}
    a = {"layers.0.w": np.array([1.0, 3.0]), "layers.1.w": np.array([5.0])}
    b = {"layers.0.w": np.array([2.0, 2.0]), "layers.1.w": np.array([7.0])}
    known = [
        {"layers.0.w": np.array([1.0, -1.0]), "layers.1.w": np.zeros(1)},
        {"layers.0.w": np.array([1.0, 1.0]), "layers.1.w": np.zeros(1)},
    ]
    options = {"drop": 0, "gradient": known, "weight_temperature": 2 / np.log(3)}
    merged = weft.merge([a, b], base=base, method="apl", **options)
    np.testing.assert_allclose(merged["layers.0.w"], [0.5 + 3.0, 1.5 + 3.0], rtol=1e-12)
    np.testing.assert_allclose(merged["layers.1.w"], [12.0], rtol=1e-12)


def test_what_matters_less_is_dropped_more() -> None:
    """Importances 0 and ln 3 of two tensors, mean 0.4: 0.4 * 2 * 3/4 = 0.6 and 0.2."""
    shapes = {"layers.0.w": (300, 200), "layers.1.w": (300, 200)}
    base, tuned = models(6, 1, shapes)
    known = [{"layers.0.w": np.zeros((300, 200)), "layers.1.w": np.full((300, 200), np.log(3.0))}]
    ours = weft.merge(tuned, base=base, method="apl", drop=0.4, importance=known)
    dropped = {name: (ours[name] == base[name]).mean() for name in shapes}
    assert abs(dropped["layers.0.w"] - 0.6) < 5 * np.sqrt(0.24 / 60000)
    assert abs(dropped["layers.1.w"] - 0.2) < 5 * np.sqrt(0.16 / 60000)


@pytest.mark.parametrize("partition", ["layer", "tensor", "model"])
def test_one_number_for_each_tensor_stands_for_all_of_its_parameters(partition: str) -> None:
    """Importances of interventions: 0-dimensional tensors, whatever the tensor's shape, and whatever its place."""
    base, tuned = models(10, 3, SHAPES)
    rng = np.random.default_rng(10)
    single = [{name: rng.standard_normal() for name in SHAPES} for _ in tuned]
    one = [{name: np.array(number) for name, number in own.items()} for own in single]
    full = [{name: np.full(SHAPES[name], number) for name, number in own.items()} for own in single]
    options = {"drop": [0.2, 0.4, 0.7], "partition": partition}
    ours = weft.merge(tuned, base=base, method="apl", importance=one, **options)
    theirs = weft.merge(tuned, base=base, method="apl", importance=full, **options)
    for name in SHAPES:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert any((ours[name] != base[name]).any() for name in SHAPES)


def test_a_gradient_of_one_number_is_refused() -> None:
    base, tuned = models(11, 1, SHAPES)
    known = {**gradients(11, 1)[0], "head": np.array(1.0)}
    with pytest.raises(InputError, match=r"tensor 'head' is float64 \[\], the models have float64 \[33, 7\]"):
        weft.merge(tuned, base=base, method="apl", gradient=[known])


def test_a_part_that_harms_weighs_less_than_one_that_does_nothing() -> None:
    """Importances -ln 3 and 0: weights 2 * 1/4 and 2 * 3/4."""
    base = {"w": np.zeros(2)}
    tuned = [{"w": np.array([4.0, 0.0])}, {"w": np.array([0.0, 4.0])}]
    known = [{"w": np.array(-np.log(3.0))}, {"w": np.array(0.0)}]
    merged = weft.merge(tuned, base=base, method="apl", drop=0, importance=known)
    np.testing.assert_allclose(merged["w"], [2.0, 6.0], rtol=1e-12)


@pytest.mark.parametrize("kind", ["gradient", "importance"])
def test_evidence_for_some_models_only_is_refused(kind: str) -> None:
    base, tuned = models(7, 2, SHAPES)
    with pytest.raises(InputError) as caught:
        weft.merge(tuned, base=base, method="apl", **{kind: [gradients(7, 1)[0], None]})
    named = {"gradient": "a gradient", "importance": "an importance"}[kind]
    assert str(caught.value) == (
        f"method apl: some models have {named} and others have none\n  -> give it for every model, or for none"
    )


def test_evidence_of_both_kinds_is_refused() -> None:
    base, tuned = models(7, 2, SHAPES)
    known = gradients(7, 2)
    with pytest.raises(InputError) as caught:
        weft.merge(tuned, base=base, method="apl", gradient=known, importance=known)
    assert str(caught.value) == "method apl: gradient and importance tell the same\n  -> give one of them"


def test_a_temperature_of_zero_is_refused() -> None:
    base, tuned = models(8, 1, SHAPES)
    with pytest.raises(InputError, match="drop_temperature is 0; it should be more than 0"):
        weft.merge(tuned, base=base, method="apl", drop_temperature=0)


def test_the_same_bytes_for_any_tile_and_worker(tmp_path: Any) -> None:
    shapes = {"layers.0.w": (700, 130), "layers.1.w": (3, 70001), "b": (70001,)}
    base, tuned = models(9, 2, shapes)
    rng = np.random.default_rng(9)
    known = [{name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in tuned]
    options = {"gradient": known, "drop_temperature": 50.0}
    parts = {"method": "apl", "base": base, "models": tuned, "parameters": options}
    same_bytes(parts, weft.merge(tuned, base=base, method="apl", **options), tmp_path)
