"""Weft computes what the papers' authors' code computed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import weft
from tests.golden_cases import Case, StateDict, cases

TIES, FISHER = cases("ties"), cases("fisher")
MERGES = [c for c in FISHER.values() if "coefficients" in c.options]
COMBINE = {"dis-mean": "mean", "dis-sum": "sum", "dis-max": "max", "mean": "plain_mean"}


def ties_options(case: Case) -> dict[str, Any]:
    """The manifest's hyper-parameters in our words."""
    options = case.options
    kind, amount = re.fullmatch(r"(topk|nf|std|none)([\d.]*)", options["reset"]).groups()
    trim = {
        "topk": {"density": float(amount or 0) / 100},
        "nf": {"trim": "norm", "density": float(amount or 0)},
        "std": {"trim": "deviation", "deviations": float(amount or 0)},
        "none": {"density": 1.0},
    }[kind]
    elect = options["resolve"] if options["resolve"] != "oracle" else unflattened(case, "oracle_sign")
    return {**trim, "elect": elect, "combine": COMBINE[options["merge"]], "scale": options["lambda"]}


def unflattened(case: Case, name: str) -> StateDict:
    from safetensors.numpy import load_file

    from tests.golden_cases import FOLDER

    flat = load_file(FOLDER / case.entry["inputs"]["file"])[name]
    return {n: flat[start : start + int(np.prod(s))].reshape(s) for n, s, start in case.entry["flat_order"]}


def test_every_case_is_here() -> None:
    assert (len(TIES), len(FISHER), len(MERGES)) == (12, 8, 6)


@pytest.mark.parametrize("case", [c for c in TIES.values() if "reset" in c.options], ids=lambda c: c.id)
def test_ties(case: Case) -> None:
    models = case.tuned()
    base = case.inputs("base")
    for alias in case.options["remove_keys"]:
        for tensors in (base, *models):
            tensors[alias] = tensors["transformer.shared.weight"]
    merged = weft.merge(models, base=base, method="ties", **ties_options(case))
    case.assert_close(merged, case.outputs("merged"))


def test_ties_with_t5_embeddings_stored_three_times() -> None:
    """Equal bytes in every input are one tensor, also when nothing else says so."""
    case = TIES["ties/t10"]
    merged = weft.merge(case.tuned(), base=case.inputs("base"), method="ties", **ties_options(case))
    case.assert_close(merged, case.outputs("merged"))


@pytest.mark.parametrize("combine", ["mean", "median", "magnitude", "sum", "task_arithmetic"])
def test_the_baselines_of_the_ties_repository(combine: str) -> None:
    case = TIES["ties/t12"]
    base = case.inputs("base")
    zeros = {name: np.zeros_like(t) for name, t in base.items()}
    plain = {"density": 1.0, "elect": "none"}
    merged = {
        "mean": lambda: weft.merge(case.tuned()),
        "sum": lambda: weft.merge(case.tuned(), normalize=False),
        "median": lambda: weft.merge(case.tuned(), base=zeros, method="ties", combine="median", **plain),
        "magnitude": lambda: weft.merge(case.tuned(), base=zeros, method="ties", combine="magnitude", **plain),
        "task_arithmetic": lambda: weft.merge(case.tuned(), base=base, method="task_arithmetic"),
    }[combine]()
    case.assert_close(merged, case.outputs(combine))


@pytest.mark.parametrize("case", MERGES, ids=lambda c: c.id)
def test_fisher(case: Case) -> None:
    options = case.options
    fishers = [case.inputs(f"fisher_{i}") if options["use_fisher"] else None for i in range(len(case.models))]
    for c, coefficients in enumerate(options["coefficients"]):
        merged = weft.merge(
            case.tuned(),
            method="fisher",
            fisher=fishers,
            weight=coefficients,
            floor=options["fisher_floor"],
            favor_target=options["favor_target_model"],
            normalize=options["normalize_fishers"],
        )
        theirs = case.outputs(f"merged_{c}")
        case.assert_close(merged, theirs, where={name: np.isfinite(t) for name, t in theirs.items()})
        for name, t in theirs.items():
            unknown = ~np.isfinite(t)
            assert np.array_equal(merged[name][unknown], case.tuned()[1][name][unknown]), "0/0 is the weighted mean"


def test_fisher_says_how_often_nobody_knew() -> None:
    case = FISHER["fisher/f06"]
    heard: list[str] = []

    class Listener(weft.Progress):
        def warning(self, text: str) -> None:
            heard.append(text)

    fishers = [case.inputs(f"fisher_{i}") for i in range(2)]
    weft.merge(case.tuned(), method="fisher", fisher=fishers, weight=[0, 1], progress=Listener())
    count = sum(int((~np.isfinite(t)).sum()) for t in case.outputs("merged_1").values())
    assert count > 0
    assert heard == [f"no model has information about {count} parameters; they are the weighted mean"]


def read(body: StateDict, head: StateDict, ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The tiny classifier of the manifest: which class it says."""
    x = (body["emb"][ids] + body["seg"][types]).mean(1)
    return (np.tanh(x @ body["w1"] + body["b1"]) @ head["w2"] + head["b2"]).argmax(1)


def test_fisher_from_end_to_end() -> None:
    """The official search: merge the bodies for every pair of coefficients, keep the target's head, count hits."""
    case = FISHER["fisher/f07"]
    target, data = case.tuned()[0], case.inputs("eval")
    bodies = [{n: t for n, t in model.items() if n not in ("w2", "b2")} for model in case.tuned()]
    fishers = [case.outputs(f"fisher_{i}") for i in range(2)]
    for coefficients, score in zip(case.output("coefficients"), case.output("scores"), strict=True):
        merged = weft.merge(bodies, method="fisher", fisher=fishers, weight=coefficients.tolist())
        hits = read(merged, target, data["input_ids"], data["token_type_ids"]) == data["labels"]
        assert abs(hits.mean() - score) <= 1 / len(hits) + 1e-6, "argmax may turn one example"


def test_fisher_norms_from_the_official_code_are_ours() -> None:
    """With norms in the metadata of a file nothing needs to be measured; both ways give the same."""
    case = FISHER["fisher/f02"]
    norms = case.output("fisher_l2_norms")
    for i, norm in enumerate(norms):
        ours = np.sqrt(sum(np.sum(t.astype(np.float64) ** 2) for t in case.inputs(f"fisher_{i}").values()))
        assert np.isclose(ours, norm, rtol=1e-6)
