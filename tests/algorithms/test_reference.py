"""The reference implementation against the outputs of the official code, and by hand where those do not reach."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from tests.reference import (
    State,
    combine_rows,
    elect_signs,
    fisher,
    fisher_norm,
    flatten,
    linear,
    task_arithmetic,
    ties,
    trim_vector,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["cases"]
}
TIES_CASES = sorted(name for name in CASES if name.startswith("ties/") and name != "ties/t12")
FISHER_CASES = [f"fisher/f{number:02}" for number in (1, 2, 3, 4, 6, 8)]

RESOLVE = {"mass": "mass", "normfrac": "normfrac", "normmass": "normmass", "none": "none"}
MERGE = {"dis-mean": "mean", "dis-sum": "sum", "dis-max": "max", "mean": "plain_mean"}


def load(case: dict[str, Any], side: str) -> dict[str, np.ndarray]:
    """Read the inputs or outputs of a golden case."""
    return load_file(GOLDEN / case[side]["file"])


def part(tensors: dict[str, np.ndarray], prefix: str) -> State:
    """Take the tensors below a prefix, without the prefix."""
    return {name.removeprefix(f"{prefix}/"): v for name, v in tensors.items() if name.startswith(f"{prefix}/")}


def check(actual: State, expected: State, tolerance: dict[str, Any]) -> None:
    """Compare two state dicts, names included."""
    assert sorted(actual) == sorted(expected)
    for name in expected:
        assert actual[name].dtype == np.float64
        assert_allclose(actual[name], expected[name], **tolerance, err_msg=name)


def trim_settings(reset: str) -> dict[str, float | str]:
    """Translate the official name of a trimming rule."""
    if reset.startswith("topk"):
        return {"trim": "magnitude", "density": float(reset.removeprefix("topk")) / 100, "deviations": 1.0}
    if reset.startswith("nf"):
        return {"trim": "norm", "density": float(reset.removeprefix("nf")), "deviations": 1.0}
    if reset.startswith("std"):
        return {"trim": "deviation", "density": 1.0, "deviations": float(reset.removeprefix("std"))}
    assert reset == "none"
    return {"trim": "magnitude", "density": 1.0, "deviations": 1.0}


def read_ties(case: dict[str, Any]) -> tuple[State, list[State], dict[str, np.ndarray]]:
    """Read base and models of a TIES case without the removed tensors, and all its inputs."""
    inputs = load(case, "inputs")
    removed = case["hyperparameters"].get("remove_keys", [])
    states = [part(inputs, "base"), *(part(inputs, f"model_{i}") for i in range(case["n_models"]))]
    states = [{name: v for name, v in state.items() if name not in removed} for state in states]
    return states[0], states[1:], inputs


def oracle_signs(case: dict[str, Any], signs: np.ndarray) -> State:
    """Cut the flat vector of given signs into tensors, by the layout in the manifest."""
    return {
        name: signs[start : start + int(np.prod(shape))].reshape(shape) for name, shape, start in case["flat_order"]
    }


@pytest.mark.parametrize("case_id", TIES_CASES)
def test_ties_gives_the_official_result(case_id: str) -> None:
    case = CASES[case_id]
    settings = case["hyperparameters"]
    base, models, inputs = read_ties(case)
    count = len(models)
    rule = trim_settings(settings["reset"])
    given = settings["resolve"] == "oracle"
    merged = ties(
        base,
        models,
        density=[float(rule["density"])] * count,
        weight=[1.0] * count,
        scale=settings["lambda"],
        trim=str(rule["trim"]),
        elect=oracle_signs(case, inputs["oracle_sign"]) if given else RESOLVE[settings["resolve"]],
        combine=MERGE[settings["merge"]],
        deviations=[float(rule["deviations"])] * count,
    )
    for name in settings["remove_keys"]:
        merged[name] = merged["transformer.shared.weight"]
    check(merged, part(load(case, "outputs"), "merged"), case["comparison"])


@pytest.mark.parametrize("case_id", TIES_CASES)
def test_every_step_of_ties_gives_the_official_result(case_id: str) -> None:
    case = CASES[case_id]
    settings = case["hyperparameters"]
    base, models, inputs = read_ties(case)
    flat = part(load(case, "outputs"), "flat")
    names = [name for name, _, _ in case["flat_order"]]
    assert names == sorted(base)
    rule = trim_settings(settings["reset"])

    taus = np.stack([flatten(model, names) - flatten(base, names) for model in models])
    assert_allclose(taus, flat["tv"], **case["comparison"])

    trimmed = np.stack(
        [trim_vector(tau, str(rule["trim"]), float(rule["density"]), float(rule["deviations"])) for tau in taus]
    )
    assert_array_equal(trimmed != 0, flat["trimmed"] != 0)
    assert_allclose(trimmed, flat["trimmed"], **case["comparison"])

    sign: np.ndarray | None
    if settings["resolve"] == "oracle":
        sign = inputs["oracle_sign"].astype(np.float64)
    else:
        sign = elect_signs(trimmed, RESOLVE[settings["resolve"]])
    if sign is None:
        assert "elected_sign" not in flat
    elif "elected_sign" in flat:
        assert_array_equal(sign, flat["elected_sign"])

    merged = combine_rows(trimmed, [1.0] * len(models), sign, MERGE[settings["merge"]])
    assert_allclose(merged, flat["merged_tv"], **case["comparison"])


@pytest.mark.parametrize(
    ("name", "combine"),
    [("mean", "plain_mean"), ("sum", "plain_sum"), ("median", "median"), ("magnitude", "magnitude")],
)
def test_baselines_of_full_weights(name: str, combine: str) -> None:
    case = CASES["ties/t12"]
    base, models, _ = read_ties(case)
    ones = [1.0] * len(models)
    zeros = {key: np.zeros_like(value) for key, value in base.items()}
    merged = ties(zeros, models, density=ones, weight=ones, elect="none", combine=combine, deviations=ones)
    check(merged, part(load(case, "outputs"), name), case["comparison"])


@pytest.mark.parametrize(("name", "normalize"), [("mean", True), ("sum", False)])
def test_linear_gives_the_baselines(name: str, normalize: bool) -> None:
    case = CASES["ties/t12"]
    _, models, _ = read_ties(case)
    merged = linear(models, [1.0] * len(models), normalize)
    check(merged, part(load(case, "outputs"), name), case["comparison"])


def test_task_arithmetic_gives_the_official_result() -> None:
    case = CASES["ties/t12"]
    base, models, _ = read_ties(case)
    scale = case["hyperparameters"]["task_arithmetic_lambda"]
    expected = part(load(case, "outputs"), "task_arithmetic")
    check(task_arithmetic(base, models, [1.0] * len(models), scale), expected, case["comparison"])
    ones = [1.0] * len(models)
    same = ties(base, models, density=ones, weight=ones, scale=scale, elect="none", combine="sum", deviations=ones)
    check(same, expected, case["comparison"])


@pytest.mark.parametrize("case_id", FISHER_CASES)
def test_fisher_gives_the_official_result(case_id: str) -> None:
    case = CASES[case_id]
    settings = case["hyperparameters"]
    inputs, outputs = load(case, "inputs"), load(case, "outputs")
    models = [part(inputs, f"model_{i}") for i in range(case["n_models"])]
    fishers = [part(inputs, f"fisher_{i}") or None for i in range(case["n_models"])]
    assert all((f is not None) == settings["use_fisher"] for f in fishers)
    undefined = 0
    for index, weight in enumerate(settings["coefficients"]):
        merged = fisher(
            models,
            fisher=fishers,
            weight=weight,
            normalize=settings["normalize_fishers"],
            floor=settings["fisher_floor"],
            favor_target=settings["favor_target_model"],
        )
        expected = part(outputs, f"merged_{index}")
        mean = linear(models, weight)
        for name, value in expected.items():
            missing = np.isnan(value)
            assert_array_equal(missing, no_fisher_left(fishers, weight, name, settings))
            assert_allclose(merged[name][missing], mean[name][missing], rtol=1e-14, err_msg=name)
            value[missing] = mean[name][missing]
            undefined += int(missing.sum())
        check(merged, expected, case["comparison"])
    assert (undefined > 0) == (not case["all_outputs_finite"])


def no_fisher_left(fishers: list[State | None], weight: list[float], name: str, settings: dict[str, Any]) -> np.ndarray:
    """Say where every model has zero weight or zero Fisher, the floor of the target and of the others included."""
    rows = []
    for i, (f, w) in enumerate(zip(fishers, weight)):
        if f is None or ((i == 0 or not settings["favor_target_model"]) and settings["fisher_floor"] > 0):
            rows.append(np.array(w == 0))
        else:
            rows.append((f[name] == 0) | (w == 0))
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*rows)))


@pytest.mark.parametrize("case_id", [name for name in FISHER_CASES if name != "fisher/f01"])
def test_fisher_norms_are_the_official_ones(case_id: str) -> None:
    case = CASES[case_id]
    inputs, outputs = load(case, "inputs"), load(case, "outputs")
    norms = [fisher_norm(part(inputs, f"fisher_{i}")) for i in range(case["n_models"])]
    assert_allclose(norms, outputs["fisher_l2_norms"], **case["comparison"])


# --- by hand: what the golden cases do not reach ---------------------------------------------------------------------


def ties_of_rows(rows: list[list[float]], **settings: Any) -> list[float]:
    """Run TIES, untrimmed unless told, on task vectors given as lists over a base of zeros."""
    count = len(rows)
    options = {"density": [1.0] * count, "weight": [1.0] * count, "deviations": [1.0] * count, **settings}
    models = [{"x": np.array(row)} for row in rows]
    return [float(v) for v in ties({"x": np.zeros(len(rows[0]))}, models, **options)["x"]]


def test_weights_vote_and_divide() -> None:
    rows = [[1.0, -1.0], [-4.0, -3.0]]
    # Weighted rows are (3, -3) and (-4, -3): the first entry elects minus, the second averages over weights 3 and 1.
    assert ties_of_rows(rows, weight=[3.0, 1.0]) == [-4.0, -1.5]
    # A negative weight turns its model round and counts by its magnitude: (-3, 3) and (-4, -3), filled by minus.
    assert ties_of_rows(rows, weight=[-3.0, 1.0]) == [-7.0 / 4.0, -3.0]


def test_a_model_of_weight_zero_does_not_count() -> None:
    rows = [[2.0, 4.0], [6.0, -8.0]]
    for combine in ("mean", "sum", "max", "plain_mean", "plain_sum", "magnitude"):
        assert ties_of_rows(rows, weight=[1.0, 0.0], combine=combine) == [2.0, 4.0]


def test_frequency_counts_heads_not_mass() -> None:
    rows = [[1.0, 0.0], [1.0, 0.0], [-9.0, 0.0]]
    assert ties_of_rows(rows, elect="mass") == [-9.0, 0.0]
    assert ties_of_rows(rows, elect="frequency") == [1.0, 0.0]


@pytest.mark.parametrize(("elect", "expected"), [("normfrac", [3.0, -4.0]), ("normmass", [3.0, -4.0])])
def test_a_model_of_zero_length_has_no_vote(elect: str, expected: list[float]) -> None:
    assert ties_of_rows([[0.0, 0.0], [3.0, -4.0]], elect=elect) == expected
    assert ties_of_rows([[0.0, 0.0], [0.0, 0.0]], elect=elect) == [0.0, 0.0]


def test_the_first_model_wins_ties() -> None:
    rows = [[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]]
    assert ties_of_rows(rows, elect="normfrac", combine="sum") == [1.0, 2.0, 2.0]
    assert ties_of_rows(rows, elect="none", combine="max") == [1.0, 1.0, 1.0]
    assert ties_of_rows(rows, elect="none", combine="magnitude") == [1.0, 1.0, 1.0]
    assert ties_of_rows(rows[::-1], elect="none", combine="max") == [-1.0, 1.0, 1.0]


def test_norm_trim_keeps_ties_and_the_last_entry() -> None:
    # The squares are 16, 4, 4, 1, 0.25: 16 of 25.25 reach 0.6; 0.7 takes one entry of magnitude 2 and so both.
    row = [4.0, -2.0, 2.0, 1.0, 0.5]
    assert ties_of_rows([row], trim="norm", density=[0.6]) == [4.0, 0.0, 0.0, 0.0, 0.5]
    assert ties_of_rows([row], trim="norm", density=[0.7]) == [4.0, -2.0, 2.0, 0.0, 0.5]
    assert ties_of_rows([row], trim="norm", density=[1.0]) == row
    # Half of the squared norm is reached exactly by the first entry.
    assert ties_of_rows([[2.0, 1.0, 1.0, 1.0, -1.0]], trim="norm", density=[0.5]) == [2.0, 0.0, 0.0, 0.0, -1.0]


def test_deviation_trim_is_unbiased() -> None:
    # Both entries lie 1 from their mean; the unbiased deviation is the root of 2, the biased one would be 1.
    assert ties_of_rows([[2.0, 0.0]], trim="deviation", deviations=[0.9]) == [0.0, 0.0]
    assert ties_of_rows([[2.0, 0.0]], trim="deviation", deviations=[0.7]) == [2.0, 0.0]
    assert ties_of_rows([[2.0]], trim="deviation", deviations=[0.0]) == [0.0]


def test_magnitude_trim_keeps_one_more_and_ties() -> None:
    row = [5.0, -4.0, 3.0, 2.0, 1.0]
    assert ties_of_rows([row], density=[0.0]) == [5.0, 0.0, 0.0, 0.0, 0.0]
    assert ties_of_rows([row], density=[0.2]) == [5.0, -4.0, 0.0, 0.0, 0.0]
    assert ties_of_rows([row], density=[0.39]) == [5.0, -4.0, 0.0, 0.0, 0.0]
    assert ties_of_rows([row], density=[1.0]) == row
    assert ties_of_rows([[2.0, -2.0, 2.0, 1.0]], density=[0.25]) == [2.0, -2.0, 2.0, 0.0]


def test_each_model_has_its_own_trim() -> None:
    rows = [[8.0, 1.0, 1.0], [8.0, 1.0, 1.0]]
    assert ties_of_rows(rows, density=[0.0, 1.0], combine="sum") == [16.0, 1.0, 1.0]
    # Mean 10/3, deviation about 4.04: the first entry is 1.15 deviations off, the others 0.58.
    kept = ties_of_rows(rows, trim="deviation", deviations=[1.0, 0.5], combine="sum")
    assert kept == [16.0, 1.0, 1.0]


def test_scope_is_the_model_or_the_tensor() -> None:
    base = {"b": np.zeros(2), "a": np.zeros((1, 2))}
    model = {"b": np.array([1.0, 2.0]), "a": np.array([[8.0, -9.0]])}
    whole = ties(base, [model], density=[0.0], weight=[1.0], scope="model")
    assert whole["b"].tolist() == [0.0, 0.0]
    assert whole["a"].tolist() == [[0.0, -9.0]]
    apart = ties(base, [model], density=[0.0], weight=[1.0], scope="tensor")
    assert apart["b"].tolist() == [0.0, 2.0]
    assert apart["a"].tolist() == [[0.0, -9.0]]


def test_the_majority_is_that_of_the_scope() -> None:
    base = {"a": np.zeros(2), "b": np.zeros(3)}
    models = [
        {"a": np.array([1.0, 5.0]), "b": np.array([-1.0, -1.0, -1.0])},
        {"a": np.array([1.0, -5.0]), "b": np.array([-1.0, -1.0, -1.0])},
    ]
    ones = [1.0, 1.0]
    assert ties(base, models, density=ones, weight=ones, scope="model")["a"].tolist() == [1.0, -5.0]
    assert ties(base, models, density=ones, weight=ones, scope="tensor")["a"].tolist() == [1.0, 5.0]


def test_given_signs_rule_every_combination() -> None:
    rows = [[2.0, 2.0, 2.0], [-4.0, -4.0, -4.0], [1.0, 1.0, 1.0]]
    signs = {"x": np.array([1.0, -1.0, 0.0])}
    expected = {
        "mean": [1.5, -4.0, -4.0],
        "sum": [3.0, -4.0, -4.0],
        "max": [2.0, -4.0, 0.0],
        "plain_mean": [1 / 3, -1 / 3, 0.0],
        "plain_sum": [1.0, -1.0, 0.0],
        "median": [1.0, -1.0, 0.0],
        "magnitude": [4.0, -4.0, 0.0],
    }
    for combine, value in expected.items():
        assert ties_of_rows(rows, elect=signs, combine=combine) == value


def test_linear_and_task_arithmetic_weigh_each_model() -> None:
    base = {"x": np.array([1.0, 1.0])}
    models = [{"x": np.array([2.0, 4.0])}, {"x": np.array([0.0, -8.0])}]
    assert linear(models, [3.0, 1.0])["x"].tolist() == [1.5, 1.0]
    assert linear(models, [3.0, 1.0], normalize=False)["x"].tolist() == [6.0, 4.0]
    assert task_arithmetic(base, models, [2.0, 1.0], 0.5)["x"].tolist() == [1.5, -0.5]


def test_fisher_of_mixed_kinds() -> None:
    models = [{"x": np.array([1.0, 1.0])}, {"x": np.array([3.0, 5.0])}]
    # Without normalisation the missing Fisher is one everywhere: (1 + 3 * 3) / 4 and (1 + 0) / 1.
    raw: list[State | None] = [None, {"x": np.array([3.0, 0.0])}]
    assert fisher(models, fisher=raw, weight=[1.0, 1.0], normalize=False)["x"].tolist() == [2.5, 1.0]
    # A Fisher of zeros has norm zero: its weight is used as it is, and with no floor the mean is what is left.
    none: list[State | None] = [{"x": np.zeros(2)}, {"x": np.zeros(2)}]
    assert fisher(models, fisher=none, weight=[3.0, 1.0], floor=0.0)["x"].tolist() == [1.5, 2.0]
    # With the floor on both models all that is left is the weights; on the target alone, the target.
    both = fisher(models, fisher=none, weight=[3.0, 1.0], floor=1e-6, favor_target=False)["x"]
    assert_allclose(both, [1.5, 2.0], rtol=1e-14)
    assert fisher(models, fisher=none, weight=[3.0, 1.0], floor=1e-6)["x"].tolist() == [1.0, 1.0]
