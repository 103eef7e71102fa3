"""Laws that the references obey, whatever the numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.references import (
    blends,
    breadcrumbs,
    consensus,
    dare,
    della,
    dppa,
    mats,
    mergekit,
    model_stock,
    pcb,
    ram,
    regmean,
    sce,
    spectral,
    sphere,
    wudi,
)
from tests.references.common import State

SHAPES = {"a.weight": (6, 5), "b.weight": (4, 8), "bias": (7,), "conv": (2, 3, 2, 2)}
Merge = Callable[[State, list[State]], State]


def drawn(seed: int, size: float = 1.0) -> State:
    rng = np.random.default_rng(seed)
    return {name: size * rng.normal(size=shape) for name, shape in SHAPES.items()}


BASE = drawn(0)
MODELS = [{name: BASE[name] + tau for name, tau in drawn(seed, 0.1).items()} for seed in (1, 2, 3)]
MASKS = [{name: draws > 0 for name, draws in drawn(seed).items()} for seed in (11, 12, 13)]
GRAMS = [
    {name: (x := np.random.default_rng(seed).normal(size=(30, inputs))).T @ x for name, inputs in (("a", 5), ("b", 8))}
    for seed in (21, 22, 23)
]


def with_lists(function: Callable[..., State], **parameters: float) -> Merge:
    """Call with a list of the same number for each model; what is no float is passed as it is."""

    def merge(base: State, models: list[State]) -> State:
        lists = {k: [v] * len(models) if isinstance(v, float) else v for k, v in parameters.items()}
        return function(base, models, **lists)

    return merge


def masked(function: Callable[..., State], **parameters: float) -> Merge:
    return lambda base, models: with_lists(function, masks=MASKS[: len(models)], **parameters)(base, models)


MOVING: dict[str, Merge] = {
    "dare": masked(dare.dare, density=0.5, weight=1.0),
    "dare_ties": masked(dare.dare_ties, density=0.5, weight=1.0, trim=0.4),
    "della": masked(della.della, density=0.5, epsilon=0.1, weight=1.0),
    "breadcrumbs": with_lists(breadcrumbs.breadcrumbs, keep=0.5, remove=0.2, weight=1.0, scale=1),
    "mergekit_ties": with_lists(
        mergekit.generalised_task_arithmetic,
        weight=1.0,
        density=0.5,
        sparsify="magnitude",
        elect=True,
        normalize=True,
    ),
    "dppa": lambda base, models: dppa.dppa(
        base,
        models,
        layers=[["a.weight"], ["b.weight"]],
        amplification=[(1.8, 1.0)] * len(models),
        weight=[1.0] * len(models),
    ),
    **{f"pcb_{variant}": partial(pcb.pcb, ratio=0.3, variant=variant) for variant in pcb.VARIANTS},
    "consensus": with_lists(consensus.consensus, share=0.4, weight=1.0, scale=1),
    "tsv": spectral.tsv,
    "tsv_eigen": partial(spectral.tsv, decorrelate="eigen"),
    "iso_c": spectral.iso_c,
    "iso_cts": spectral.iso_cts,
    "wudi": partial(wudi.wudi, steps=10),
}
MEANS: dict[str, Merge] = {
    "sce": sce.sce,
    "ram": ram.ram,
    "ram_plus": ram.ram_plus,
    "median": lambda base, models: blends.median(models),
    "model_stock_angle": model_stock.model_stock,
    "model_stock_cosine": partial(model_stock.model_stock, average="cosine", scope="row"),
    "karcher": lambda base, models: sphere.karcher(models, weight=[1.0] * len(models)),
    "karcher_of_changes": lambda base, models: sphere.karcher(models, weight=[1.0] * len(models), base=base),
    "multislerp": lambda base, models: sphere.multislerp(models, weight=[1.0] * len(models), base=base),
    "regmean": lambda base, models: regmean.regmean(models, GRAMS[: len(models)], factor=0.9),
    "mats": lambda base, models: mats.mats(models, GRAMS[: len(models)]),
}
ALL = {**MOVING, **MEANS}
# What belongs to a model's place (masks, Gram matrices) stays where it is when the models change places.
PLACED = {"dare", "dare_ties", "della", "regmean", "mats"}


def check(ours: State, expected: State, rtol: float = 1e-6, atol: float = 1e-12) -> None:
    assert set(ours) == set(expected)
    for name, value in expected.items():
        assert np.shape(ours[name]) == np.shape(value)
        assert_allclose(ours[name], value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", ALL)
def test_copies_of_the_base_give_the_base(name: str) -> None:
    check(ALL[name](BASE, [BASE, BASE, BASE]), BASE)


@pytest.mark.parametrize("name", MEANS)
def test_copies_of_a_model_give_that_model(name: str) -> None:
    check(MEANS[name](BASE, [MODELS[0]] * 3), MODELS[0])


@pytest.mark.parametrize("name", sorted(set(ALL) - PLACED))
def test_the_order_of_the_models_does_not_matter(name: str) -> None:
    check(ALL[name](BASE, MODELS[::-1]), ALL[name](BASE, MODELS))


@pytest.mark.parametrize("name", ALL)
def test_models_that_differ_are_merged_into_another_one(name: str) -> None:
    merged = ALL[name](BASE, MODELS)
    for other in (BASE, *MODELS):
        assert any(not np.allclose(merged[tensor], other[tensor]) for tensor in SHAPES)


@pytest.mark.parametrize("name", ["dare", "della", "breadcrumbs", "consensus"])
def test_a_scale_stretches_the_change(name: str) -> None:
    """The merged change with scale 2 is twice that with scale 1."""
    twice = {
        "dare": masked(dare.dare, density=0.5, weight=1.0, scale=2),
        "della": masked(della.della, density=0.5, epsilon=0.1, weight=1.0, scale=2),
        "breadcrumbs": with_lists(breadcrumbs.breadcrumbs, keep=0.5, remove=0.2, weight=1.0, scale=2),
        "consensus": with_lists(consensus.consensus, share=0.4, weight=1.0, scale=2),
    }[name](BASE, MODELS)
    once = ALL[name](BASE, MODELS)
    check({n: twice[n] - BASE[n] for n in SHAPES}, {n: 2 * (once[n] - BASE[n]) for n in SHAPES}, atol=1e-14)


def test_dare_is_right_on_average() -> None:
    """Over all 16 masks of 4 entries, weighted by their chance, the thinned change is the change."""
    tau, density = np.array([1.0, -2, 3, 4]), 0.3
    mean = np.zeros(4)
    for mask in np.ndindex(2, 2, 2, 2):
        keep = np.array(mask, bool)
        chance = density ** keep.sum() * (1 - density) ** (4 - keep.sum())
        mean += chance * dare.thinned(tau, keep, density, rescale=True)
    assert_allclose(mean, tau)


def test_the_scope_does_not_matter_where_there_is_one_vector() -> None:
    base, models = {"x": BASE["bias"]}, [{"x": model["bias"]} for model in MODELS]
    for merge in (
        lambda scope: sphere.karcher(models, weight=[1, 2, 3], scope=scope),
        lambda scope: sphere.slerp(base, models[:1], t=0.3, scope=scope),
        lambda scope: sphere.slerp_changes(base, models[:2], t=0.3, scope=scope),
        lambda scope: model_stock.model_stock(base, models, scope=scope),
    ):
        check(merge("row"), merge("tensor"))
        check(merge("model"), merge("tensor"))


def test_the_karcher_mean_of_two_is_their_slerp() -> None:
    """In direction: slerp keeps no mean length, so the models are of length one."""
    pair = [{"x": sphere.unit(MODELS[i]["bias"])} for i in (0, 1)]
    check(sphere.karcher(pair, weight=[0.7, 0.3]), sphere.slerp(pair[0], pair[1:], t=0.3, straight=1.0), rtol=1e-10)
