"""The references by the names and the parameters that the methods have, for tests that draw methods and parameters.

A function asks for what it needs by name: `models`, `base` where there is one, and the method's parameters, per-model
ones as lists. It sees one set of parameters for all tensors. What sparsifiers do to one task vector is in
`sparsifiers`, and what is done to whole matrices in `whole_matrices`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tests import reference
from tests.references import blends, ram, sphere
from tests.references import consensus as agreeing
from tests.references import pcb as competing
from tests.references import sce as selecting
from tests.references.common import Array, State, add_up, by_scope, change, merged_from, total

linear = reference.linear
task_arithmetic = reference.task_arithmetic
ties = reference.ties
fisher = reference.fisher
consensus = agreeing.consensus
ram_merge = ram.ram
ram_plus = ram.ram_plus
nearswap = blends.nearswap


def median(models: list[State], *, middle: str) -> State:
    """Per entry the middle value."""
    return blends.median(models, lower=middle == "lower")


def passthrough(models: list[State], *, scale: float) -> State:
    """The only model, times a factor."""
    return blends.passthrough(models, factor=scale)


def pcb(
    base: State, models: list[State], *, ratio: float, weight: list[float], scale: float, variant: str, scope: str
) -> State:
    """The competition, in the whole model or tensor by tensor; weights stand inside the mean."""

    def merged(taus: Array) -> Array:
        if ratio == 0:
            return np.zeros(taus.shape[1])
        values, shares = clamped_scores(taus, ratio, variant)
        top = add_up(values * shares * np.array(weight)[:, None])
        return np.asarray(top / np.maximum(add_up(shares), 1e-12))

    return merged_from(base, by_scope([change(base, model) for model in models], scope, merged), scale)


def clamped_scores(taus: Array, ratio: float, variant: str) -> tuple[Array, Array]:
    """As the official code; where its upper index falls below the first entry, as for a lone one, it is the first."""
    clamp, rule, _ = competing.VARIANTS[variant]
    magnitudes = within(np.abs(taus), clamp, clamp)
    competed = np.exp(len(taus) * (competing.to_unit(magnitudes) ** 2 - 1)) * competing.between(rule, taus, magnitudes)
    return np.sign(taus) * magnitudes, competing.to_unit(np.maximum(competed, at(competed, 1 - ratio)[:, None]))


def within(rows: Array, low: float, high: float) -> Array:
    """Rows clamped to what stands at index int(d low) and int(d (1 - high) - 1) in order."""
    size = rows.shape[1]
    top = np.sort(rows, axis=1)[:, max(int(size * (1 - high) - 1), 0)]
    return np.minimum(np.maximum(rows, at(rows, low)[:, None]), top[:, None])


def at(rows: Array, share: float) -> Array:
    """What stands at index int(d share) of each row in order, the last if that is beyond."""
    size = rows.shape[1]
    return np.asarray(np.sort(rows, axis=1)[:, min(int(size * share), size - 1)])


def sce(base: State, models: list[State], *, select: float, least: float, scope: str) -> State:
    """Selected by variance, weighed by energy, minority signs erased. Of equal variances all are selected or none."""

    def merged(taus: Array) -> Array:
        selected = np.where(varied(taus, select), taus, 0.0)
        energy = np.mean(selected**2, axis=1)
        even = energy.sum() < least or energy.sum() == 0
        weight = np.ones(len(taus)) if even else energy / energy.sum()
        counted = np.where(selecting.agreeing(selected), weight[:, None], 0.0)
        return reference.divide(add_up(counted * selected), add_up(counted))

    return merged_from(base, by_scope([change(base, model) for model in models], scope, merged))


def varied(taus: Array, select: float) -> Array:
    """Where the variance over the models is among the largest."""
    if select >= 1:
        return np.full(taus.shape[1], True)
    variance = np.mean((taus - add_up(taus) / len(taus)) ** 2, axis=0)
    count = int(select * np.count_nonzero(variance))
    return np.asarray(variance >= np.sort(variance)[-count]) if count else np.full(taus.shape[1], False)


def slerp(models: list[State], *, base: State | None = None, t: float, of: str, scope: str, straight: float) -> State:
    """Along the arc between two models, or their task vectors."""
    if of == "changes":
        assert base is not None
        return sphere.slerp_changes(base, models, t=t, scope=scope, straight=straight)
    return sphere.slerp(models[0], models[1:], t=t, scope=scope, straight=straight)


def karcher(models: list[State], *, base: State | None = None, weight: list[float], of: str, scope: str) -> State:
    """The mean on the sphere."""
    return sphere.karcher(models, weight=weight, base=base if of == "changes" else None, scope=scope)


def stock(base: State, models: list[State], *, average: str, scope: str, clamp: bool) -> State:
    """Model Stock without the constants that guard divisions elsewhere."""

    def step(taus: Array) -> Array:
        cosine, count = mean_cosine(taus, average), len(taus)
        bottom = 1 + (count - 1) * cosine
        t = 0.0 if abs(bottom) < 1e-6 else count * cosine / bottom
        return (min(max(t, 0.0), 1.0) if clamp else t) * add_up(taus) / count

    return merged_from(base, by_scope([change(base, model) for model in models], scope, step))


def mean_cosine(taus: Array, average: str) -> float:
    """One cosine for all pairs."""
    units = np.stack([sphere.unit(tau) for tau in taus])
    cosines = np.clip((units @ units.T)[np.triu_indices(len(units), 1)], -1, 1)
    by_angle = average == "angle" and len(cosines) > 1
    return float(np.cos(np.mean(np.arccos(cosines)))) if by_angle else float(np.mean(cosines))


def summed(base: State, models: list[State], *, weight: list[float], scale: float) -> State:
    """What a sparsifier alone makes of the task vectors that it changed: their weighted sum."""
    return merged_from(base, total([change(base, model) for model in models], weight), scale)


def della(base: State, models: list[State], *, weight: list[float], scale: float, elect: bool, combine: str) -> State:
    """What DELLA makes of the task vectors that it pruned; an undecided sign is plus."""
    merged: State = {}
    for name, start in base.items():
        rows = np.stack([w * (np.asarray(m[name]) - start).reshape(-1) for w, m in zip(weight, models)])
        sign = np.where(add_up(rows) >= 0, 1.0, -1.0) if elect else None
        summed_up = reference.combine_rows(rows, weight, sign, combine if elect else f"plain_{combine}")
        merged[name] = summed_up.reshape(start.shape)
    return merged_from(base, merged, scale)


def beside_matrices(base: State, models: list[State], *, weight: list[float], scale: float) -> State:
    """What methods on matrices do with all other tensors: the mean of the task vectors, models without weight apart."""
    tasks = sum(w != 0 for w in weight)
    return merged_from(base, total([change(base, model) for model in models], weight), scale / tasks)


def averaged(models: list[State], *, weight: list[float]) -> State:
    """What methods with statistics of layers do with tensors that have none."""
    return reference.linear(models, weight)


REFERENCES: Mapping[str, Callable[..., State]] = {
    "linear": linear,
    "median": median,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "consensus": consensus,
    "pcb": pcb,
    "sce": sce,
    "ram": ram_merge,
    "ram+": ram_plus,
    "nearswap": nearswap,
    "slerp": slerp,
    "karcher": karcher,
    "model_stock": stock,
    "fisher": fisher,
    "passthrough": passthrough,
    "dare": summed,
    "della": della,
    "breadcrumbs": summed,
    "dppa": summed,
    "apl": summed,
    "svc": summed,
    "tsv": beside_matrices,
    "iso_c": beside_matrices,
    "iso_cts": beside_matrices,
    "wudi": beside_matrices,
    "regmean": averaged,
    "mats": averaged,
}
"""By method; of those that see matrices whole, what they do with all other tensors."""
