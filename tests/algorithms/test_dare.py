"""DARE: what the official code computes, what it promises, and that its draws depend on what they should alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.algorithms.sparse import as_numbers, assert_close, changed, drawn_masks, models, same_bytes, zeros
from tests.golden_cases import Case, cases
from tests.references import dare as reference
from tests.references import mergekit
from tests.references.common import excluded
from tests.references.goldens import kept_share
from weft.algorithms.dare import dare
from weft.errors import InputError

GOLDEN = cases("dare")
BIG = {"w": (300, 400), "v": (300, 400)}


def test_every_case_is_here() -> None:
    assert len(GOLDEN) == 4


@pytest.mark.parametrize("case", [c for c in GOLDEN.values() if "mask_rate" in c.options], ids=lambda c: c.id)
def test_golden_masks(case: Case) -> None:
    options, delta = case.options, case.inputs("delta")
    how = {"mask": as_numbers(case.masks)} if options["mask_strategy"] == "random" else {"select": "magnitude"}
    ours = changed(delta, "dare", drop=options["mask_rate"], rescale=options["use_rescale"], **how)
    case.assert_close(ours, case.outputs("out_delta"))


def test_golden_task_arithmetic() -> None:
    case = GOLDEN["dare/dare_task_arithmetic"]
    left = [pattern.replace(".*", "*") for pattern in case.options["exclude_param_names_regex"]]
    base, *tuned = ({n: t for n, t in s.items() if not excluded(n, left)} for s in (case.base, *case.models))
    given: dict[str, Any] = {"drop": case.options["weight_mask_rates"], "mask": as_numbers(case.masks)}
    scale = case.options["scaling_coefficient"]
    case.assert_close(weft.merge(tuned, base=base, method="dare", scale=scale, **given), case.outputs("out"))
    before = weft.merge(tuned, base=base, method="task_arithmetic", scale=scale, before={"method": "dare", **given})
    case.assert_close(before, case.outputs("out"))


def test_golden_ties() -> None:
    case = GOLDEN["dare/dare_ties"]
    before = {"method": "dare", "drop": case.options["weight_mask_rates"], "mask": as_numbers(case.masks)}
    density = kept_share(case, case.options["param_value_mask_rate"])
    options = {"density": density, "scale": case.options["scaling_coefficient"]}
    case.assert_close(
        weft.merge(case.models, base=case.base, method="ties", before=before, **options), case.outputs("out")
    )


def test_golden_mergekit() -> None:
    """Rescaled to the sum of magnitudes, tensor by tensor."""
    case = cases("mergekit")["mergekit/mk_dare_linear"]
    drop = [1 - density for density in case.options["density"]]
    given = {"drop": drop, "mask": as_numbers(case.masks), "rescale": "l1", "weight": case.options["weights"]}
    case.assert_close(weft.merge(case.models, base=case.base, method="dare", **given), case.outputs("out"))


def test_golden_mergekit_sparsify() -> None:
    case = cases("mergekit")["mergekit/mk_sparsify"]
    mask = [{"x": case.output("keep_mask4").astype(np.float32)}]
    ours = changed({"x": case.output("in4")}, "dare", mask=mask, drop=0.5, rescale="l1")
    case.assert_close(ours, {"x": case.output("out4")})


@pytest.mark.parametrize("rescale", [True, False])
def test_against_the_reference(rescale: bool) -> None:
    base, tuned = models(1, 3)
    drop, weight = [0.3, 0.6, 0.9], [1.0, -0.5, 2.0]
    masks = drawn_masks("dare", base, tuned, drop=drop, seed=7)
    given = {"weight": weight, "scale": 0.7, "rescale": rescale}
    ours = weft.merge(tuned, base=base, method="dare", drop=drop, seed=7, **given)
    assert_close(ours, reference.dare(base, tuned, density=[1 - p for p in drop], masks=masks, **given))


def test_the_smallest_against_the_reference() -> None:
    base, tuned = models(2, 3)
    drop = [0.3, 0.0, 0.9]
    given = {"weight": [1.0, 1.0, 0.5], "scale": 1.0}
    ours = weft.merge(tuned, base=base, method="dare", drop=drop, select="magnitude", **given)
    assert_close(ours, reference.dare(base, tuned, density=[1 - p for p in drop], **given))


@pytest.mark.parametrize("select", ["random", "magnitude"])
def test_l1_against_the_reference(select: str) -> None:
    base, tuned = models(3, 2)
    options = {"drop": 0.5, "select": select}
    masks = drawn_masks("dare", base, tuned, **options)
    ours = weft.merge(tuned, base=base, method="dare", rescale="l1", **options)
    kept = [{n: mergekit.drawn(t[n] - base[n], mask[n], "l1") for n in base} for t, mask in zip(tuned, masks)]
    assert_close(ours, {n: base[n] + kept[0][n] + kept[1][n] for n in base}, rtol=1e-11)


def test_by_hand() -> None:
    """p = 0.75: what is kept counts four times. 1 + 0.5 (2 (3 - 1) 4 + 0) = 9 on entry 0, 1 on entry 1."""
    base, tuned = {"w": np.ones(2)}, [{"w": np.array([3.0, 5.0])}, {"w": np.array([9.0, 9.0])}]
    masks = [{"w": np.array([1.0, 0.0])}, {"w": np.zeros(2)}]
    merged = weft.merge(tuned, base=base, method="dare", drop=0.75, mask=masks, weight=[2, 1], scale=0.5)
    assert merged["w"].tolist() == [9.0, 1.0]
    assert dare(1.0, 3.0, draw=0.75, drop=0.75, factor=4.0) == 8.0


def test_equal_magnitudes_at_the_threshold_are_dropped() -> None:
    assert changed({"w": np.array([1.0, -2.0, 2.0, 3.0])}, "dare", drop=0.5, select="magnitude")["w"].tolist() == [
        0,
        0,
        0,
        6,
    ]


def test_all_is_dropped_and_nothing_is_divided() -> None:
    delta = {"w": np.array([1.0, -2.0])}
    assert changed(delta, "dare", drop=1.0)["w"].tolist() == [0, 0]
    assert changed(delta, "dare", drop=1.0, rescale="l1")["w"].tolist() == [0, 0]


def test_a_model_without_a_mask_keeps_all() -> None:
    base, tuned = models(4, 2)
    masks = [{name: np.zeros(t.shape) for name, t in base.items()}, None]
    merged = weft.merge(tuned, base=base, method="dare", mask=masks)
    assert_close(merged, tuned[1])


def test_the_mean_stays_what_it_was() -> None:
    delta = {"w": np.ones((500, 400))}
    for drop in (0.1, 0.5, 0.9, 0.99):
        kept = changed(delta, "dare", drop=drop)["w"]
        assert abs(kept.mean() - 1) < 5 * np.sqrt(drop / (1 - drop) / kept.size)
        assert abs((kept != 0).mean() - (1 - drop)) < 5 * np.sqrt(drop * (1 - drop) / kept.size)


def kept(seed: int = 0, count: int = 2, **options: Any) -> list[dict[str, np.ndarray]]:
    """Which of two equally large tensors are kept in each of some equal models."""
    base = {name: np.zeros(shape) for name, shape in BIG.items()}
    ones = {name: np.ones(shape) for name, shape in BIG.items()}
    return drawn_masks("dare", base, [ones] * count, seed=seed, **options)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """In standard deviations from none."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1] * np.sqrt(one.size))


def test_models_tensors_rows_columns_and_seeds_are_independent() -> None:
    first, second = kept()
    other_seed = kept(seed=1)[0]
    pairs = {
        "models": (first["w"], second["w"]),
        "tensors": (first["w"], first["v"]),
        "seeds": (first["w"], other_seed["w"]),
        "rows": (first["w"][:-1], first["w"][1:]),
        "columns": (first["w"][:, :-1], first["w"][:, 1:]),
    }
    assert {what: abs(correlation(*pair)) < 5 for what, pair in pairs.items()} == dict.fromkeys(pairs, True)


def test_more_are_kept_as_less_is_dropped() -> None:
    """Equal draws are compared with another rate, so that a search over rates is smooth."""
    few, many = kept(count=1, drop=0.8)[0], kept(count=1, drop=0.4)[0]
    assert all((many[name] | ~few[name]).all() for name in BIG)


def test_draws_do_not_depend_on_other_models_and_tensors() -> None:
    assert all((kept(count=3)[0][name] == kept(count=1)[0][name]).all() for name in BIG)
    alone = changed({"w": np.ones(BIG["w"])}, "dare", rescale=False)["w"] != 0
    assert (alone == kept(count=1)[0]["w"]).all()


def test_the_seed_matters_and_nothing_else_does() -> None:
    base, tuned = models(5, 2)
    one, again, other = (weft.merge(tuned, base=base, method="dare", seed=seed) for seed in (3, 3, 4))
    assert all((one[name] == again[name]).all() for name in base)
    assert any((one[name] != other[name]).any() for name in base)


@pytest.mark.parametrize("options", [{}, {"rescale": "l1"}, {"select": "magnitude"}], ids=str)
def test_the_same_bytes_for_any_tile_and_worker(options: dict[str, Any], tmp_path: Any) -> None:
    base, tuned = models(6, 2, {"w": (700, 130), "v": (70001,), "b": (5,)})
    parts = {"method": "dare", "base": base, "models": tuned, "parameters": options}
    same_bytes(parts, weft.merge(tuned, base=base, method="dare", **options), tmp_path)


def test_before_another_method_weight_and_scale_have_nothing_to_say() -> None:
    base, tuned = models(7, 2)
    with pytest.raises(InputError, match="before: dare has no parameter 'weight'"):
        weft.merge(tuned, base=base, method="ties", before={"method": "dare", "weight": 2})


def test_what_is_dropped_must_be_a_share() -> None:
    base, tuned = models(8, 2)
    with pytest.raises(InputError, match=r"drop of model 'model_1' is 1.5; it should be at most 1"):
        weft.merge(tuned, base=base, method="dare", drop=[0.5, 1.5])


def test_a_mask_of_another_shape_is_refused() -> None:
    delta = {"w": np.ones((2, 3))}
    with pytest.raises(
        InputError, match=r"mask of model 'model_0': tensor 'w' is float64 \[3, 2\], the models have float64 \[2, 3\]"
    ):
        weft.merge([delta], base=zeros(delta), method="dare", mask=[{"w": np.ones((3, 2))}])
