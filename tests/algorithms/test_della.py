"""DELLA: what the official code computes, what it promises, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.algorithms.sparse import as_numbers, assert_close, changed, drawn_masks, models, same_bytes
from tests.golden_cases import cases
from tests.references import della as reference
from tests.references import mergekit
from tests.references.common import change
from weft.algorithms.della import keep_probability
from weft.errors import InputError

GOLDEN = cases("della")
PARTS = [part for part in GOLDEN["della/della_magprune"].entry["parts"] if part["function"] == "rank_magnitude"]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part["index"]))
def test_golden_magprune(part: dict[str, Any]) -> None:
    case, index, given = GOLDEN["della/della_magprune"], part["index"], part["kwargs"]
    ours = changed(
        case.inputs("delta"),
        "della",
        mask=as_numbers([case.masks[index]]),
        density=given["density"],
        epsilon=given["epsilon"],
        rescale=given["rescale"],
        combine="sum",
    )
    case.assert_close(ours, case.outputs(f"out{index}"))


def test_golden_merge() -> None:
    case = GOLDEN["della/della_merge"]
    options = case.options
    ours = weft.merge(
        case.models,
        base=case.base,
        method="della",
        mask=as_numbers(case.masks),
        density=options["density"],
        epsilon=options["epsilon"],
        weight=options["weights"],
        scale=options["lambda"],
    )
    case.assert_close(ours, case.outputs("out"))


def test_golden_mergekit() -> None:
    case = cases("mergekit")["mergekit/mk_della"]
    options = case.options
    ours = weft.merge(
        case.models,
        base=case.base,
        method="della",
        mask=as_numbers(case.masks),
        density=options["density"],
        epsilon=options["epsilon"],
        weight=options["weights"],
        rescale="l1",
    )
    case.assert_close(ours, case.outputs("out"))


@pytest.mark.parametrize("index", [5, 6])
def test_golden_mergekit_sparsify(index: int) -> None:
    case = cases("mergekit")["mergekit/mk_sparsify"]
    given = case.entry["parts"][index]["kwargs"]
    ours = changed(
        {"x": case.output(f"in{index}")},
        "della",
        mask=[{"x": case.output(f"keep_mask{index}").astype(np.float32)}],
        density=given["density"],
        epsilon=given["epsilon"],
        rescale=given.get("rescale_norm") or False,
        combine="sum",
    )
    case.assert_close(ours, {"x": case.output(f"out{index}")})


@pytest.mark.parametrize("elect", [True, False])
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("rescale", [True, False])
def test_against_the_reference(elect: bool, combine: str, rescale: bool) -> None:
    base, tuned = models(1, 3)
    given = {"density": [0.3, 0.6, 1.0], "epsilon": [0.1, 0.3, 0.2], "rescale": rescale}
    masks = drawn_masks("della", base, tuned, seed=5, **given)
    alone = {"weight": [1.0, 0.5, 2.0], "scale": 0.7, "elect": elect}
    ours = weft.merge(tuned, base=base, method="della", seed=5, combine=combine, **alone, **given)
    theirs = reference.della(base, tuned, masks=masks, normalize=combine == "mean", **alone, **given)
    assert_close(ours, theirs, rtol=1e-11)


def test_l1_against_the_reference() -> None:
    base, tuned = models(2, 1)
    given = {"density": 0.6, "epsilon": 0.2}
    (mask,) = drawn_masks("della", base, tuned, **given)
    ours = weft.merge(tuned, base=base, method="della", rescale="l1", combine="sum", **given)
    delta = change(base, tuned[0])
    assert_close(ours, {n: base[n] + mergekit.drawn(delta[n], mask[n], "l1") for n in base}, rtol=1e-11)


def test_before_ties_it_only_prunes() -> None:
    base, tuned = models(3, 3)
    given = {"density": 0.6, "epsilon": 0.2}
    masks = drawn_masks("della", base, tuned, **given)
    pruned = [
        {
            n: base[n] + reference.pruned(tau, mask[n], reference.keep_probabilities(tau, **given))
            for n, tau in change(base, model).items()
        }
        for model, mask in zip(tuned, masks, strict=True)
    ]
    ours = weft.merge(tuned, base=base, method="ties", before={"method": "della", **given}, density=0.3)
    assert_close(ours, weft.merge(pruned, base=base, method="ties", density=0.3), rtol=1e-10)


def test_by_hand() -> None:
    """Magnitudes 2, 1, 4 and density 0.5, epsilon 0.25: places 1, 0, 2, probabilities 1/2, 1/4, 3/4.

    Model a keeps all: 4, -4, 16/3. Model b keeps nothing but 3 / (3/4) = 4 at the second place. Sums: 4, 0 (plus),
    16/3. So a alone, b alone, a alone.
    """
    base = {"w": np.zeros(3)}
    a, b = {"w": np.array([2.0, -1.0, 4.0])}, {"w": np.array([1.0, 3.0, -2.0])}
    masks = [{"w": np.ones(3)}, {"w": np.array([0.0, 1.0, 0.0])}]
    merged = weft.merge([a, b], base=base, method="della", density=0.5, epsilon=0.25, mask=masks)["w"]
    assert merged.tolist() == [4.0, 4.0, 4.0 / 0.75]


def test_equal_magnitudes_go_by_their_place() -> None:
    delta, every = {"w": np.array([[1.0, 1.0, -1.0]])}, [{"w": np.ones((1, 3))}]
    ours = changed(delta, "della", density=0.5, epsilon=0.25, mask=every)["w"]
    assert ours.tolist() == [[4.0, 2.0, -1.0 / 0.75]]


def test_rows_of_one_parameter_are_kept_with_the_density() -> None:
    assert keep_probability(0.0, 1.0, 0.5, 0.25) == 0.5
    delta = {"w": np.ones((20000, 1)), "number": np.array(2.0)}
    kept = changed(delta, "della", density=0.3, epsilon=0.2)
    assert set(np.unique(kept["w"])) == {0.0, 1 / 0.3}
    assert abs((kept["w"] != 0).mean() - 0.3) < 5 * np.sqrt(0.21 / 20000)
    assert kept["number"] in (0.0, 2 / 0.3)


def test_probabilities_are_what_they_should_be() -> None:
    """Of 4000 rows of 21 parameters, each kept by its place, its mean being what it was."""
    rows = np.tile(np.arange(1.0, 22.0), (4000, 1))
    kept = changed({"w": rows}, "della", density=0.5, epsilon=0.3)["w"]
    expected = 0.2 + 0.6 * np.arange(21) / 20
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs((kept != 0).mean(0) - expected) < 5 * error).all()
    assert (np.abs(kept.mean(0) / rows[0] - 1) < 5 * error / expected).all()


def test_with_density_one_all_is_kept() -> None:
    base, tuned = models(4, 1)
    assert_close(weft.merge(tuned, base=base, method="della", density=1.0, epsilon=0.3), tuned[0])


def test_a_model_without_a_mask_keeps_all() -> None:
    base, tuned = models(5, 2)
    masks = [{name: np.zeros(t.shape) for name, t in base.items()}, None]
    assert_close(weft.merge(tuned, base=base, method="della", mask=masks), tuned[1])


@pytest.mark.parametrize(("density", "epsilon"), [(0.2, 0.2), (0.1, 0.3), (0.9, 0.1), (0.8, 0.4), (0.0, 0.0)])
def test_probabilities_that_are_none_are_refused(density: float, epsilon: float) -> None:
    base, tuned = models(6, 2)
    with pytest.raises(InputError) as caught:
        weft.merge(tuned, base=base, method="della", density=[0.5, density], epsilon=[0.1, epsilon])
    assert f"density {density:g} with epsilon {epsilon:g} makes probabilities from" in str(caught.value)
    remedy = "give a density above 0" if density == 0 else "make epsilon less than"
    assert remedy in str(caught.value)


def test_the_refusal_says_what_to_do() -> None:
    base, tuned = models(6, 1)
    with pytest.raises(InputError) as caught:
        weft.merge(tuned, base=base, method="della", density=0.1, epsilon=0.3)
    assert str(caught.value) == (
        "method della: density 0.1 with epsilon 0.3 makes probabilities from -0.2 to 0.4, which must lie between 0 and "
        "1\n  -> make epsilon less than 0.1, or density 1"
    )


def test_elect_and_combine_have_nothing_to_say_before_another_method() -> None:
    base, tuned = models(7, 1)
    with pytest.raises(InputError, match="before: della has no parameter 'combine'"):
        weft.merge(tuned, base=base, method="ties", before={"method": "della", "combine": "sum"})


@pytest.mark.parametrize("options", [{}, {"rescale": "l1"}], ids=str)
@pytest.mark.parametrize("shape", [(700, 130), (3, 70001), (70, 1), (5, 3, 400)], ids=str)
def test_the_same_bytes_for_any_tile_and_worker(options: dict[str, Any], shape: tuple[int, ...], tmp_path: Any) -> None:
    base, tuned = models(8, 2, {"w": shape, "b": (70001,)})
    parts = {"method": "della", "base": base, "models": tuned, "parameters": options}
    same_bytes(parts, weft.merge(tuned, base=base, method="della", **options), tmp_path)
