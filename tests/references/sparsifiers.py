"""What each sparsifier makes of one task vector, by the parameters that the methods have; all float64."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tests.references import breadcrumbs as crumbs
from tests.references import dare as dropping
from tests.references import della as ranking
from tests.references import dppa as pruning
from tests.references import mergekit
from tests.references.common import Array, State

Sparse = Callable[..., State]


def dare(
    tau: State,
    *,
    drop: float,
    rescale: bool | str,
    select: str,
    draws: State,
    mask: State | None = None,
    masked: bool = False,
) -> State:
    """Each tensor thinned by its mask, by chance, or by magnitude.

    Args:
        tau: the task vector.
        drop: share that is dropped.
        rescale: whether to divide by what is kept, or `l1`.
        select: `random` or `magnitude`.
        draws: for every parameter a number of [0, 1).
        mask: what is kept.
        masked: whether any model has a mask; one without keeps everything then, and nothing is made up for.

    """
    result: State = {}
    for name, t in tau.items():
        if masked:
            keep = np.full(t.shape, True) if mask is None else mask[name] != 0
        elif select == "magnitude":
            keep = dropping.kept_by_magnitude(t, drop)
        else:
            keep = draws[name] >= drop
        divides = rescale is True and not (masked and mask is None)
        kept = dropping.thinned(t, keep, 1 - drop, divides)
        result[name] = mergekit.rescaled(kept, t, "l1") if rescale == "l1" else kept
    return result


def della(
    tau: State,
    *,
    density: float,
    epsilon: float,
    rescale: bool | str,
    draws: State,
    mask: State | None = None,
    masked: bool = False,
) -> State:
    """MAGPRUNE of every row; the arguments as for `dare`."""
    result: State = {}
    for name, t in tau.items():
        free = density >= 1 or (masked and mask is None)
        chance = np.ones(t.shape) if free else ranking.keep_probabilities(t, density, epsilon)
        keep = draws[name] < chance
        if masked:
            keep = np.full(t.shape, True) if mask is None else mask[name] != 0
        kept = ranking.pruned(t, keep, chance, rescale is True)
        result[name] = mergekit.rescaled(kept, t, "l1") if rescale == "l1" else kept
    return result


def breadcrumbs(tau: State, *, density: float, gamma: float, remove_first: bool, scope: str) -> State:
    """Neither the largest nor the smallest of each row, or of each tensor."""
    if scope == "row":
        return {name: crumbs.masked(t, density, gamma, remove_first) for name, t in tau.items()}
    return {name: between_magnitudes(t, density, gamma, remove_first) for name, t in tau.items()}


def between_magnitudes(tau: Array, density: float, gamma: float, remove_first: bool) -> Array:
    """By magnitude in the tensor: of equal ones all are kept or none, so that those tied with the last dropped go."""
    size, kept = tau.size, int(tau.size * density)
    top = min(int(size * gamma), size - kept) if remove_first else int(size * gamma)
    high = size - top
    low = high - kept if remove_first else size - kept
    ordered = np.concatenate([[0.0], np.sort(np.abs(tau), axis=None)])
    return np.where((np.abs(tau) > ordered[low]) & (np.abs(tau) <= ordered[high]), tau, 0.0)


def layer_of(name: str) -> str:
    """The name up to the first part that is a number; empty if there is none before the last part."""
    parts = name.split(".")
    first = next((k for k, part in enumerate(parts[:-1]) if re.fullmatch(r"\d+", part)), None)
    return "" if first is None else ".".join(parts[: first + 1])


def dppa(
    tau: State,
    *,
    sparse: float,
    dense: float,
    sparse_factor: float,
    dense_factor: float,
    spread: float,
    outliers: float,
) -> State:
    """Matrices in layers pruned twice and amplified; all else is enlarged by the larger factor."""
    layers: dict[str, list[str]] = {}
    for name in sorted(tau):
        if tau[name].ndim == 2 and tau[name].size and layer_of(name):
            layers.setdefault(layer_of(name), []).append(name)
    if not layers:
        return {name: max(sparse_factor, dense_factor) * t for name, t in tau.items()}
    every = list(layers.values())
    sparser, denser = (pruning.pruned(tau, every, share, spread, outliers) for share in (sparse, dense))
    return pruning.amplified(sparser, denser, sparse_factor, dense_factor)


def softmax(values: Array) -> Array:
    """Shares that grow with the values."""
    grown = np.exp(values - values.max())
    return np.asarray(grown / grown.sum())


def parts_of(names: Sequence[str], partition: str) -> dict[str, list[str]]:
    """The parts of a model."""
    found: dict[str, list[str]] = {}
    for name in names:
        part = {"layer": layer_of(name) or name, "tensor": name, "model": ""}[partition]
        found.setdefault(part, []).append(name)
    return found


def apl(
    taus: list[State],
    *,
    drop: list[float],
    partition: str,
    drop_temperature: float,
    weight_temperature: float,
    draws: list[State],
    gradient: list[State] | None = None,
    importance: list[State] | None = None,
) -> list[State]:
    """Every model's task vector, thinned by how much its parts matter, and weighed among the models."""
    parts = parts_of(sorted(taus[0]), partition)
    matters = np.zeros((len(taus), len(parts)))
    for i, tau in enumerate(taus):
        for p, names in enumerate(parts.values()):
            if gradient is not None:
                matters[i, p] = abs(sum(np.sum(tau[n] * gradient[i][n]) for n in names))
            elif importance is not None:
                size = max(sum(tau[n].size for n in names), 1)
                matters[i, p] = sum(np.sum(np.broadcast_to(importance[i][n], tau[n].shape)) for n in names) / size
    told = gradient is not None or importance is not None
    result: list[State] = [{} for _ in taus]
    for p, names in enumerate(parts.values()):
        weights = len(taus) * softmax(matters[:, p] / weight_temperature) if told else np.ones(len(taus))
        for i, tau in enumerate(taus):
            share = len(parts) * softmax(-matters[i] / drop_temperature)[p] if told else 1.0
            ratio = min(drop[i] * share, 0.99)
            for n in names:
                result[i][n] = np.where(draws[i][n] >= ratio, weights[i] * tau[n] / (1 - ratio), 0.0)
    return result


SPARSIFIERS: Mapping[str, Sparse] = {"dare": dare, "della": della, "breadcrumbs": breadcrumbs, "dppa": dppa}
"""By method: what sees one model at a time. `apl`, whose weights compare the models, is apart."""
