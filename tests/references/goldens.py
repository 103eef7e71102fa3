"""What the references say to every golden case: the same groups of tensors as the official code stored.

`python -m tests.references.goldens` prints the largest error of each case as a share of what its manifest allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tests.golden_cases import Case, cases
from tests.reference import add_up, flatten, task_arithmetic, ties
from tests.references import breadcrumbs as bread
from tests.references import dare, della, dppa, mats, mergekit, model_stock, pcb, regmean, spectral, svc, wudi
from tests.references.common import State, as_float64, change, excluded, total

Groups = dict[str, State]
METHODS = [
    *("task_arithmetic", "dare", "della", "breadcrumbs", "dppa", "pcb", "model_stock", "mergekit"),
    *("tsv", "iso", "wudi", "svc", "regmean", "mats"),
]

# What a case stores besides answers of the code: its inputs, and what was drawn at random.
GIVEN = re.compile(r"(base|(model|keep_mask|gram|in|x)\d+|keep_mask)")
INPUTS = {"dare": {"delta"}, "della": {"delta"}, "dppa": {"delta"}, "svc": {"merged"}}

# Where the official answer is an accident that the method mends, and the tensors it touches.
ACCIDENTS = {
    "mergekit/mk_breadcrumbs": {
        "out": {
            "b": "int(gamma * n) = 0 zeroes the whole change in the snapshot; mergekit 0.1.5 keeps int(density * n)"
        }
    },
}


def numbered(name: str, states: list[State]) -> Groups:
    """One group per model."""
    return {f"{name}{i}": state for i, state in enumerate(states)}


def of_task_arithmetic(case: Case) -> Groups:
    delta = total([change(case.base, model) for model in case.models])
    signed = {name: -tau for name, tau in delta.items()} if case.options["negated"] else delta
    sign = -1.0 if case.options["negated"] else 1.0
    merged = task_arithmetic(case.base, case.models, [sign] * len(case.models), case.options["scaling_coef"])
    return {"delta": signed, "out": merged}


def of_dare(case: Case) -> Groups:
    options = case.options
    if "mask_rate" in options:
        return {"out_delta": dare_delta(case)}
    left = [pattern.replace(".*", "*") for pattern in options["exclude_param_names_regex"]]
    states = [{n: t for n, t in s.items() if not excluded(n, left)} for s in (case.base, *case.models)]
    density = [1 - rate for rate in options["weight_mask_rates"]]
    given = {"density": density, "masks": case.masks, "weight": [1.0] * len(case.models)}
    scale = options["scaling_coefficient"]
    if options["mask_apply_method"] == "task_arithmetic":
        return {"out": dare.dare(states[0], states[1:], scale=scale, **given)}
    trim = [kept_share(case, options["param_value_mask_rate"])] * len(case.models)
    return {"out": dare.dare_ties(states[0], states[1:], scale=scale, trim=trim, **given)}


def kept_share(case: Case, rate: float) -> float:
    """The density with which TIES trims as MergeLM does: at magnitude int(d * rate), not d - int(d * density)."""
    size = sum(tensor.size for tensor in case.base.values())
    return (size - int(size * rate) + 0.5) / size


def dare_delta(case: Case) -> State:
    """A case with one task vector, given as it is."""
    rate, result = case.options["mask_rate"], {}
    for name, tau in as_float64(case.inputs("delta")).items():
        keep = case.masks[0][name] if case.options["mask_strategy"] == "random" else dare.kept_by_magnitude(tau, rate)
        result[name] = dare.thinned(tau, keep, 1 - rate, case.options["use_rescale"])
    return result


def of_della(case: Case) -> Groups:
    if "parts" in case.entry:
        return {key: state for part in case.entry["parts"] for key, state in della_part(case, part).items()}
    options, count = case.options, len(case.models)
    density, epsilon = [options["density"]] * count, [options["epsilon"]] * count
    given = {"density": density, "epsilon": epsilon, "weight": options["weights"], "scale": options["lambda"]}
    probabilities = [
        {n: della.keep_probabilities(tau, options["density"], options["epsilon"]) for n, tau in delta.items()}
        for delta in (change(case.base, model) for model in case.models)
    ]
    merged = della.della(case.base, case.models, masks=case.masks, **given)
    return {"out": merged, **numbered("keep_prob", probabilities)}


def della_part(case: Case, part: dict) -> Groups:
    """One function of the official sparsifiers, applied to the task vector of the case."""
    delta, index, arguments = as_float64(case.inputs("delta")), part["index"], part["kwargs"]
    density = arguments["density"]
    if part["function"] == "magnitude_row_wise":
        return {f"out{index}": {name: della.largest_of_rows(tau, density) for name, tau in delta.items()}}
    by = {"rank_magnitude": "row", "rank_magnitude_layer": "tensor", "magnitude_sample": "value"}[part["function"]]
    chance = {n: della.keep_probabilities(tau, density, arguments["epsilon"], by) for n, tau in delta.items()}
    masks, rescale = case.masks[index], arguments.get("rescale", True)
    out = {name: della.pruned(tau, masks[name], chance[name], rescale) for name, tau in delta.items()}
    return {f"out{index}": out, f"keep_prob{index}": chance}


def of_breadcrumbs(case: Case) -> Groups:
    keep, remove = case.options["top_k_keep_beta"], case.options["top_k_remove_gamma"]
    first, count = case.options["remove_first"], len(case.models)
    masked = [
        {name: bread.masked(tau, keep, remove, first) for name, tau in change(case.base, model).items()}
        for model in case.models
    ]
    lists = {"keep": [keep] * count, "remove": [remove] * count, "weight": [1.0] * count}
    merged = bread.breadcrumbs(case.base, case.models, scale=case.options["alpha"], remove_first=first, **lists)
    return {"out": merged, **numbered("masked", masked)}


def of_dppa(case: Case) -> Groups:
    options, delta = case.options, case.inputs("delta")
    layers = [[f"{layer}.{linear}" for linear in options["linears"]] for layer in range(options["n_layers"])]
    limit, factor = options["Lamda"], options["Hyper_m"]
    result: Groups = {}
    for level in ("hi", "lo"):
        sparsity = options[f"sparsity_{level}"]
        result[f"pruned_{level}"] = dppa.pruned(delta, layers, sparsity, limit, factor)
        result[f"density_layer_{level}"] = {"": dppa.layer_densities(delta, layers, sparsity, limit)}
        linears = dppa.linear_densities(delta, layers, sparsity, limit, factor)
        result[f"density_linear_{level}"] = {"": np.array(list(linears.values()))}
    amplified = [
        dppa.amplified(result["pruned_hi"], result["pruned_lo"], factors["nine"], factors["eight"])
        for factors in options["amplification"]
    ]
    return {**result, **numbered("amplified", amplified)}


def of_pcb(case: Case) -> Groups:
    variants = {"pcb-merging.py": "reference", "nlp": "nlp", "vision_main": "vision", "vision_ES": "vision_es"}
    variant, ratio, scale = variants[case.entry["variant"]], case.options["ratio"], case.options["lambda"]
    names = sorted(case.base)
    taus = np.stack([flatten(model, names) - flatten(case.base, names) for model in case.models])
    clamped, weights = pcb.scores(taus, ratio, variant)
    merged = pcb.pcb(case.base, case.models, ratio=ratio, scale=scale, variant=variant)
    flat = {"tv": taus, "clamped": clamped, "scale": weights, "merged": flatten(merged, names)}
    inside = pcb.pcb(
        case.base, case.models, ratio=ratio, scale=scale if isinstance(scale, list) else 1.0, variant=variant
    )
    flat["merged_tv"] = flatten(inside, names) - flatten(case.base, names)
    stored = case.groups()["flat"]
    return {"merged": merged, "flat": {name: value for name, value in flat.items() if name in stored}}


def of_model_stock(case: Case) -> Groups:
    left = case.options["ignore_keys"]
    deltas = [change(case.base, model) for model in case.models]
    angles, ratios = {}, {}
    for name in (name for name in case.base if name in case.groups()["ratio"]):
        taus = np.stack([delta[name].reshape(-1) for delta in deltas])
        angles[name] = np.degrees(np.arccos(model_stock.pair_cosines(taus, "add")))
        ratios[name] = np.array(model_stock.stock_ratio(taus, "angle"))
    merged = model_stock.model_stock(case.base, case.models, ignore=left)
    return {"out": merged, "angles_deg": angles, "ratio": ratios}


def of_mergekit(case: Case) -> Groups:
    if case.id == "mergekit/mk_sparsify":
        return {key: state for part in case.entry["parts"] for key, state in mergekit_part(case, part).items()}
    options = case.options
    if "filter_wise" in options:
        scope = "row" if options["filter_wise"] else "tensor"
        return {"out": model_stock.model_stock(case.base, case.models, average="cosine", scope=scope)}
    how = {"None": "none", "random": "bernoulli"}.get(options["sparsification"], options["sparsification"])
    merged = mergekit.generalised_task_arithmetic(
        case.base,
        case.models,
        weight=options["weights"],
        density=options["density"],
        sparsify=how,
        masks=case.masks,
        gamma=[options.get("gamma", 0.0)] * len(case.models),
        rescale=options["rescale_l1"],
        elect=options["consensus"] == "sum",
        normalize=options["normalize"],
        scale=options["lambda"],
    )
    return {"out": merged, **numbered("keep_prob", mergekit_probabilities(case, how))}


def mergekit_probabilities(case: Case, how: str) -> list[State]:
    """With which probability each entry was drawn, for the methods that draw."""
    if not case.masks:
        return []
    return [
        {n: probability(tau, how, case.options["density"][i], case.options.get("epsilon")) for n, tau in delta.items()}
        for i, delta in enumerate(change(case.base, model) for model in case.models)
    ]


def probability(tau: np.ndarray, how: str, density: float, epsilon: float | None) -> np.ndarray:
    """Keep probabilities of one tensor."""
    return np.full(tau.shape, density) if how == "bernoulli" else mergekit.magprune_probabilities(tau, density, epsilon)


def mergekit_part(case: Case, part: dict) -> Groups:
    """One of mergekit's sparsifiers on one tensor."""
    index, how, arguments = part["index"], part["function"], part["kwargs"]
    tau, norm = np.asarray(case.output(f"in{index}"), np.float64), arguments.get("rescale_norm")
    if how == "magnitude":
        return {f"out{index}": {"": mergekit.magnitude(tau, arguments["density"], norm)}}
    if how == "magnitude_outliers":
        return {f"out{index}": {"": mergekit.outliers_removed(tau, arguments["density"], arguments["gamma"], norm)}}
    keep = case.output(f"keep_mask{index}").astype(bool)
    chance = probability(tau, how, arguments["density"], arguments.get("epsilon"))
    return {f"out{index}": {"": mergekit.drawn(tau, keep, norm)}, f"keep_prob{index}": {"": chance}}


def of_tsv(case: Case) -> Groups:
    if "tsvc" in case.id:
        return numbered("compressed", spectral.tsv_compressed(case.base, case.models))
    how = "eigen" if "eig" in case.id else "svd"
    merged = spectral.tsv(case.base, case.models, decorrelate=how)
    result = {"out": merged, "delta": change(case.base, merged)}
    if "_fb_" in case.id:
        result.update(numbered("single", tsv_shares(case)))
    return result


def tsv_shares(case: Case) -> list[State]:
    """FusionBench's share of every task; of a tensor that is no matrix each gets the mean (so the golden data)."""
    deltas = [change(case.base, model) for model in case.models]
    shares: list[State] = [{} for _ in deltas]
    for name in case.base:
        taus = [delta[name] for delta in deltas]
        parts = spectral.tsv_parts(taus) if taus[0].ndim == 2 else [add_up(np.stack(taus)) / len(taus)] * len(taus)
        for share, part in zip(shares, parts):
            share[name] = part
    return shares


def of_iso(case: Case) -> Groups:
    if "iso_cts" in case.id:
        fraction = case.options["common_space_fraction"]
        merged = spectral.iso_cts(case.base, case.models, fraction=fraction, scale=case.options["alpha"])
    else:
        merged = spectral.iso_c(case.base, case.models, scale=case.options["alpha"])
    return {"out": merged, "delta": change(case.base, merged)}


def of_wudi(case: Case) -> Groups:
    merged = wudi.wudi(case.base, case.models, steps=case.options["iter_num"])
    return {"out": merged, "delta": change(case.base, merged)}


def of_svc(case: Case) -> Groups:
    return {"out": svc.svc(case.base, case.models, case.inputs("merged"), least=case.options["alpha"])}


def of_regmean(case: Case) -> Groups:
    if case.id == "regmean/regmean_gram":
        return {"gram": {"": regmean.gram([case.output(f"x{i}") for i in range(len(case.options["batches"]))])}}
    merged = regmean.regmean(case.models, case.each("gram"), factor=case.options["reduce_non_diagonal_ratio"])
    return {"out": merged, "out_bloomberg": merged}


def of_mats(case: Case) -> Groups:
    return {"merged": MATS[case.entry["functions"][0].split("::")[1]](case)} if case.models else mats_statistics(case)


def mats_start(case: Case) -> State | None:
    """Where CG starts."""
    kind = case.options["initialization"]
    if kind == "average":
        return mats.average(case.models)
    return {"path": case.inputs("init"), "pretrained": mats.untransposed(case.base), None: None}[kind]


def mats_by_steps(case: Case) -> State:
    options = case.options
    gradients = case.each("output_grad_gram") if options.get("use_backward") else None
    return mats.mats(
        case.models,
        case.each("input_gram") if options["is_linearLayer"] else case.each("block_fisher"),
        gradients=gradients,
        factor=options["model_lambda"],
        start=mats_start(case),
        steps=options["num_iterations"],
    )


def mats_ties(case: Case) -> State:
    count = len(case.models)
    density, weight = [case.options["K"] / 100] * count, [1.0] * count
    return ties(case.base, case.models, density=density, weight=weight, scale=case.options["model_lambda"])


def mats_mean(case: Case) -> State:
    """CG with the identity: a Fisher of ones everywhere gives the mean in one step."""
    ones = [{name: np.ones(value.shape) for name, value in model.items()} for model in case.models]
    return mats.diagonal(case.models, ones, start=case.base, steps=case.options["num_iterations"])


MATS: dict[str, Callable[[Case], State]] = {
    "average": lambda case: mats.average(case.models, share=case.options["model_lambda"]),
    "task_vectors": lambda case: task_arithmetic(
        case.base, case.models, [1.0] * len(case.models), case.options["model_lambda"]
    ),
    "ties": mats_ties,
    "diagonal_fisherMerging": lambda case: mats.floored_fisher(
        case.models, case.each("fisher"), share=case.options["model_lambda"], floor=case.options["fisher_floor"]
    ),
    "regmean": lambda case: regmean.regmean(case.models, case.each("input_gram"), factor=case.options["model_lambda"]),
    "conjugateGradient_fisherMerging": mats_by_steps,
    "conjugateGradient_diagonalFisher": lambda case: mats.diagonal(
        case.models, case.each("fisher"), start=mats.average(case.models), steps=case.options["num_iterations"]
    ),
    "conjugateGradient_average": mats_mean,
}


def mats_statistics(case: Case) -> Groups:
    """Gram matrices over the tokens that are not padding, and the Fishers of a vector (case m17)."""
    examples = case.each("ex")
    names = [name.removeprefix("act/") for name in examples[0] if name.startswith("act/")]
    result: Groups = {"input_gram": {}, "output_grad_gram": {}}
    for name in names:
        side = "input_mask" if ".encoder." in name or "EncDecAttention.k" in name else "target_mask"
        masks = [example[side] for example in examples]
        for group, kind in (("input_gram", "act"), ("output_grad_gram", "grad")):
            result[group][name] = mats.token_gram([example[f"{kind}/{name}"] for example in examples], masks)
    vector = np.asarray(case.input("ia3_vector"), np.float64)
    gradients = [as_float64(example)["ia3_h"] for example in examples]
    gradients = [-(vector @ h - float(e["ia3_y"][0])) * h for h, e in zip(gradients, examples)]
    fisher = mats.vector_fisher(gradients)
    result["block_fisher"] = {"ia3_vector": fisher}
    result["diag_fisher"] = {"ia3_vector": np.diag(fisher)}
    result["scaled_gram_lambda0.3"] = {"": regmean.shrunk(result["input_gram"]["transformer.encoder.block.0.k"], 0.3)}
    return result


ANSWERS: dict[str, Callable[[Case], Groups]] = {
    "task_arithmetic": of_task_arithmetic,
    "dare": of_dare,
    "della": of_della,
    "breadcrumbs": of_breadcrumbs,
    "dppa": of_dppa,
    "pcb": of_pcb,
    "model_stock": of_model_stock,
    "mergekit": of_mergekit,
    "tsv": of_tsv,
    "iso": of_iso,
    "wudi": of_wudi,
    "svc": of_svc,
    "regmean": of_regmean,
    "mats": of_mats,
}


def every_case() -> list[Case]:
    """The cases of all methods that have references here."""
    return [case for method in METHODS for case in cases(method).values()]


def answers(case: Case) -> Groups:
    """Our tensors, in the groups of the case."""
    return ANSWERS[case.id.split("/")[0]](case)


def official(case: Case) -> Groups:
    """What the official code gave, without what it was given."""
    given = INPUTS.get(case.id.split("/")[0], set())
    return {name: state for name, state in case.groups().items() if not GIVEN.fullmatch(name) and name not in given}


def largest_errors(case: Case) -> tuple[float, float]:
    """The largest difference, and the largest as a share of what the manifest allows."""
    ours, errors = answers(case), [(0.0, 0.0)]
    for group, state in official(case).items():
        for name, expected in state.items():
            if name in ACCIDENTS.get(case.id, {}).get(group, {}):
                continue
            difference = np.abs(np.asarray(ours[group][name], np.float64) - expected)
            allowed = case.tolerance["atol"] + case.tolerance["rtol"] * np.abs(expected)
            errors.append((float(difference.max(initial=0)), float((difference / allowed).max(initial=0))))
    return max(e for e, _ in errors), max(share for _, share in errors)


if __name__ == "__main__":
    for each in every_case():
        print(
            f"{each.id:40} largest error {largest_errors(each)[0]:.1e}, {largest_errors(each)[1]:7.2%} of the tolerance"
        )
