"""RegMean and MaTS: the official codes, the independent references, cases by hand, and statistics that are awkward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.drawing import StateDict, base_and_tuned, gram_of
from tests.golden_cases import Case, cases
from tests.references import mats as reference
from tests.references import regmean as regression

REGMEAN, MATS = cases("regmean"), cases("mats")
TO_THE_END = {"tolerance": 1e-14, "iterations": 1000}
STEPS = [c for c in MATS.values() if c.entry["functions"][0].endswith("conjugateGradient_fisherMerging")]


class Listener(weft.Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warning(self, text: str) -> None:
        self.heard.append(text)


def by_weight(grams: StateDict, model: StateDict) -> StateDict:
    """Gram matrices by the names of the weights; the golden files have those of modules, or of vectors."""
    return {name if name in model else f"{name}.weight": t for name, t in grams.items()}


def measured(case: Case, group: str, more: str = "") -> list[StateDict]:
    """The statistics of every model, as one file holds them."""
    grams = [by_weight(g, m) for g, m in zip(case.each(group), case.models, strict=True)]
    if not more:
        return grams
    gradients = [by_weight(g, m) for g, m in zip(case.each(more), case.models, strict=True)]
    return [{**g, **{f"{n}@gradients": t for n, t in d.items()}} for g, d in zip(grams, gradients, strict=True)]


def test_every_case_is_here() -> None:
    assert (len(REGMEAN), len(MATS), len(STEPS)) == (2, 17, 6)


@pytest.mark.parametrize("group", ["out", "out_bloomberg"])
def test_regmean(group: str) -> None:
    case = REGMEAN["regmean/regmean_r0.9"]
    grams = measured(case, "gram")
    merged = weft.merge(
        case.models, method="regmean", gram=grams, off_diagonal=case.options["reduce_non_diagonal_ratio"]
    )
    case.assert_close(merged, {**merged, **case.outputs(group)})


def test_regmean_of_mats() -> None:
    case = MATS["mats/m07"]
    options = {"gram": measured(case, "input_gram"), "off_diagonal": case.options["model_lambda"]}
    case.assert_close(weft.merge(case.models, method="regmean", **options), case.outputs("merged"))


def test_dead_inputs_are_averaged() -> None:
    """The official code of MaTS gives them weights of zero; everything else is the same."""
    case = MATS["mats/m08"]
    listener = Listener()
    options = {"gram": measured(case, "input_gram"), "off_diagonal": 1.0, "progress": listener}
    merged, theirs = weft.merge(case.models, method="regmean", **options), case.outputs("merged")
    weights = [name for name in theirs if name in options["gram"][0]]
    for name in weights:
        dead = ~np.any(sum(g[name] for g in options["gram"]), axis=0)
        assert dead.sum() == 1
        assert not theirs[name][:, dead].any()
        mean = np.mean([model[name] for model in case.models], axis=0)
        np.testing.assert_allclose(merged[name][:, dead], mean[:, dead], rtol=1e-6)
        theirs[name][:, dead] = merged[name][:, dead]
    case.assert_close(merged, theirs)
    text = "tensors have inputs, or mixtures of them, that no model's data move; along those they are averaged"
    assert listener.heard == [f"{len(weights)} {text}"]


@pytest.mark.parametrize("case", STEPS, ids=lambda c: c.id)
def test_mats_by_conjugate_gradients(case: Case) -> None:
    """Gram matrices, K-FAC and the Fisher matrices of vectors; from the average, nothing, another merge, the base."""
    options = case.options
    vectors = not options["is_linearLayer"]
    kfac = options["use_backward"] and not vectors
    start: Any = {
        "average": "average",
        "path": case.inputs("init"),
        # The official code does not transpose the base before it starts from it.
        "pretrained": reference.untransposed(case.base),
        None: {name: np.zeros_like(t) for name, t in case.models[0].items()},
    }[options["initialization"]]
    group = "block_fisher" if vectors else "input_gram"
    merged = weft.merge(
        case.models,
        method="mats",
        objective="kfac" if kfac else "gram",
        gram=measured(case, group, "output_grad_gram" if kfac else ""),
        start=start,
        iterations=options["num_iterations"],
        off_diagonal=options["model_lambda"],
    )
    case.assert_close(merged, case.outputs("merged"))


def test_mats_from_the_base_is_not_the_official_accident() -> None:
    """Transposed as it should be, two steps from the base end elsewhere."""
    case = MATS["mats/m13"]
    grams = measured(case, "input_gram", "output_grad_gram")
    options = {"method": "mats", "objective": "kfac", "gram": grams, "iterations": 2, "base": case.base}
    merged, theirs = weft.merge(case.models, start="base", **options), case.outputs("merged")
    assert any(not np.allclose(merged[name], t, atol=1e-3) for name, t in theirs.items())
    inputs, gradients = case.each("input_gram"), case.each("output_grad_gram")
    exact = reference.mats(case.models, inputs, gradients=gradients, start=case.base, steps=2)
    for name, t in exact.items():
        np.testing.assert_allclose(merged[name], t, rtol=1e-4, atol=1e-6)


def test_mats_with_diagonal_fishers() -> None:
    case = MATS["mats/m15"]
    merged = weft.merge(case.models, method="mats", objective="fisher", fisher=case.each("fisher"))
    case.assert_close(merged, case.outputs("merged"))


def test_mats_without_statistics_is_the_average() -> None:
    case = MATS["mats/m16"]
    merged = weft.merge(case.models, base=case.base, method="mats", objective="identity", start="base")
    case.assert_close(merged, case.outputs("merged"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factor", [0.0, 0.9, 1.0])
def test_against_the_references(seed: int, factor: float) -> None:
    _, tuned = base_and_tuned(seed, 3)
    grams = [gram_of(seed + i, tuned[0]) for i in range(3)]
    named = [{(f"{n}.weight" if n in grams[0] else n): t for n, t in model.items()} for model in tuned]
    renamed = [{f"{n}.weight": g for n, g in gram.items()} for gram in grams]
    weight = [1.0, 0.5, 2.0]
    exact = regression.regmean(named, grams, factor=factor, weight=weight)
    options = {"gram": renamed, "weight": weight, "off_diagonal": factor}
    solved = weft.merge(named, method="regmean", **options)
    iterated = weft.merge(named, method="mats", tolerance=1e-14, **options)
    for name, t in exact.items():
        np.testing.assert_allclose(solved[name], t, rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(iterated[name], t, rtol=1e-7, atol=1e-9, err_msg=name)


def test_regmean_by_hand() -> None:
    """Inputs are apart, so each is an average: (3 * 1 + 1 * 3) / 4 = 1.5 and (1 * 0 + 1 * 4) / 2 = 2."""
    a, b = {"w": np.array([[1.0, 0.0]])}, {"w": np.array([[3.0, 4.0]])}
    grams = [{"w": np.diag([3.0, 1.0])}, {"w": np.eye(2)}]
    np.testing.assert_allclose(weft.merge([a, b], method="regmean", gram=grams)["w"], [[1.5, 2.0]], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_regmean_of_fewer_tokens_than_inputs(dtype: str, atol: float) -> None:
    """The outputs on the data are the best there are, and what the data do not see is averaged.

    Stored in float32, what is not seen is not exactly zero in the Gram matrix, but rounding errors.
    """
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((3, 10)) * 10.0 ** np.arange(-3, 2, 0.5) for _ in range(2)]
    models = [{"w": rng.standard_normal((4, 10)).astype(dtype)} for _ in range(2)]
    grams = [{"w": (t.T @ t / 3).astype(dtype)} for t in tokens]
    merged = weft.merge(models, method="regmean", off_diagonal=1, gram=grams)["w"]
    scale = np.sqrt(sum(np.diag(g["w"]) for g in grams))
    for t, model in zip(tokens, models, strict=True):
        np.testing.assert_allclose((merged - model["w"]) @ t.T, 0, atol=20 * atol)
    mean = (models[0]["w"] + models[1]["w"]) / 2
    unseen = np.linalg.svd(np.vstack(tokens) / scale)[2][6:]
    np.testing.assert_allclose(((merged - mean) * scale) @ unseen.T, 0, atol=atol * scale.max())


def test_what_has_no_gram_is_averaged() -> None:
    """Nobody has one for `v`: no word. Only one has one for `u`: a warning, and the average."""
    rng = np.random.default_rng(0)
    models = [{n: rng.standard_normal((3, 2)) for n in "wvu"} for _ in range(2)]
    grams = [{"w": np.eye(2), "u": np.eye(2)}, {"w": 3 * np.eye(2)}]
    listener = Listener()
    merged = weft.merge(models, method="regmean", gram=grams, progress=listener)
    for name in "vu":
        np.testing.assert_allclose(merged[name], (models[0][name] + models[1][name]) / 2)
    np.testing.assert_allclose(merged["w"], (models[0]["w"] + 3 * models[1]["w"]) / 4)
    assert listener.heard == ["1 tensor(s) lack a gram in at least one model and are merged as if there were none: u"]


def test_the_residual_is_told() -> None:
    rng = np.random.default_rng(0)
    models = [{n: rng.standard_normal((3, 4)) for n in "ab"} for _ in range(2)]
    grams = [gram_of(i, models[0]) for i in range(2)]
    listener = Listener()
    weft.merge(models, method="mats", gram=grams, iterations=1, progress=listener)
    (text,) = listener.heard
    assert text.startswith("relative residual of the conjugate gradients: at most 0.")
    assert text.endswith("on average over 2 tensors")
    assert "(tensor '" in text


def test_given_tensors_of_another_model_are_refused() -> None:
    models = [{"layer.w": np.ones((3, 2))}] * 2
    with pytest.raises(weft.InputError) as caught:
        weft.merge(models, method="regmean", gram=[{"layer.w": np.eye(3)}] * 2)
    text = (
        "gram of model 'model_0': tensor 'layer.w' is float64 [3, 3]; a tensor 'layer.w' of shape [3, 2] needs [2, 2]"
    )
    assert caught.value.problems[0].what == text


def test_files_by_the_names_of_modules_are_refused() -> None:
    """All would silently be averaged."""
    models = [{"layer.weight": np.ones((3, 2))}] * 2
    with pytest.raises(weft.InputError) as caught:
        weft.merge(models, method="regmean", gram=[{"layer": np.eye(2)}] * 2)
    problem = caught.value.problems[0]
    assert "has nothing for any of the 1 tensor(s) that could use it: there is no 'layer.weight'" in problem.what


@pytest.mark.parametrize(
    ("method", "options", "problem"),
    [
        (
            "regmean",
            {"gram": [{"w": np.eye(2)}, None]},
            "^method regmean: model 'b' has no `gram`\n  -> measure it with",
        ),
        (
            "mats",
            {"objective": "kfac"},
            "^method mats: model 'a' has no `gram`, which .* kfac needs\n.*gram --gradients`$",
        ),
        ("mats", {"objective": "fisher"}, "^method mats: model 'a' has no `fisher`, which .* needs\n.* `weft fisher`$"),
        ("mats", {"objective": "identity", "start": "base"}, "method mats needs a base model"),
        ("mats", {"objective": "identity", "start": "mean"}, "should be average, base, or the path of a merge"),
    ],
)
def test_what_is_missing_is_told(method: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(weft.InputError, match=problem):
        weft.merge({name: {"w": np.ones((3, 2))} for name in "ab"}, method=method, **options)


@pytest.mark.parametrize(
    "options",
    [{"method": "regmean"}, {"method": "mats", **TO_THE_END}, {"method": "mats", **TO_THE_END, "objective": "kfac"}],
)
def test_layers_that_keep_inputs_by_outputs(options: dict[str, Any]) -> None:
    """GPT-2: the same as of the transposed weights, if they are named; square ones too."""
    rng = np.random.default_rng(0)
    models = [{f"c_fc.{k}": rng.standard_normal((5, n)) for k, n in enumerate((3, 5))} for _ in range(2)]
    upright = [{name: t.T for name, t in model.items()} for model in models]
    grams = []
    for seed in range(2):
        inputs, outputs = gram_of(seed, upright[0]), gram_of(seed + 5, models[0])
        grams.append(inputs | {f"{name}@gradients": t for name, t in outputs.items()})
    ours = weft.merge(models, gram=grams, transposed=["c_fc.*"], **options)
    exact = weft.merge(upright, gram=grams, **options)
    for name, t in exact.items():
        np.testing.assert_allclose(ours[name], t.T, rtol=1e-8, atol=1e-10)
    with pytest.raises(weft.InputError) as caught:
        weft.merge(models, gram=grams, **options)
    assert "name them in `transposed`" in caught.value.problems[0].remedy


def test_a_model_without_weight_needs_no_gram() -> None:
    rng = np.random.default_rng(0)
    models = [{"w": rng.standard_normal((3, 2))} for _ in range(3)]
    grams = [gram_of(i, models[0]) for i in range(2)]
    two = weft.merge(models[:2], method="regmean", gram=grams)
    three = weft.merge(models, method="regmean", gram=[*grams, None], weight=[1, 1, 0])
    np.testing.assert_allclose(three["w"], two["w"], rtol=1e-12)


def test_a_model_that_lacks_a_tensor_is_left_out() -> None:
    rng = np.random.default_rng(0)
    models = [{n: rng.standard_normal((3, 2)) for n in "ab"} for _ in range(3)]
    grams = [gram_of(i, models[0]) for i in range(3)]
    exact = weft.merge(models[:2], method="regmean", gram=grams[:2])["b"]
    del models[2]["b"]
    merged = weft.merge(models, method="regmean", gram=grams, on_missing="skip-model")
    np.testing.assert_allclose(merged["b"], exact, rtol=1e-12)


@pytest.mark.parametrize("objective", ["fisher", "identity"])
def test_no_memory_is_asked_for_matrices_that_the_objective_does_not_know(objective: str) -> None:
    """A Gram matrix of 40000 inputs would take 13 GB; neither a diagonal Fisher nor nothing is one."""
    models = [{"embed": np.full(40000, value, np.float32)} for value in (1.0, 3.0)]
    fishers = [{"embed": np.ones(40000, np.float32)}] * 2
    options = {"fisher": fishers} if objective == "fisher" else {}
    merged = weft.merge(models, method="mats", objective=objective, **options)
    np.testing.assert_allclose(merged["embed"], 2.0, rtol=1e-6)


@pytest.mark.parametrize("method", ["regmean", "mats"])
def test_memory_is_that_of_the_inputs_gram(method: str) -> None:
    """A head of 60000 outputs has a Gram matrix of its 2 inputs; one of its outputs would take 29 GB."""
    models = [{"head": np.full((60000, 2), value, np.float32)} for value in (1.0, 3.0)]
    merged = weft.merge(models, method=method, gram=[{"head": np.eye(2)}] * 2)
    np.testing.assert_allclose(merged["head"], 2.0, rtol=1e-6)


@pytest.mark.parametrize("method", ["regmean", "mats"])
def test_memory_of_what_is_transposed_is_that_of_its_inputs(method: str) -> None:
    """Inputs x outputs: the side of the Gram matrix is the first."""
    kind = weft.method(method)
    upright, turned = (
        kind.resolved(["a"], common={"gram": [{"w": np.eye(2)}], "transposed": patterns}).program().whole
        for patterns in ([], ["*c_proj*"])
    )
    assert turned.working((3000, 7), 1, 4) > upright.working((3000, 7), 1, 4) + 8 * 3000**2
