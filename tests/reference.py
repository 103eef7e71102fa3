"""Slow float64 reference of the merging methods, written from their definitions alone, to test the fast ones against.

A state dict is a plain ``dict[str, np.ndarray]``; every function returns one of float64 arrays. Nothing here is
checked or optimised: the models of one call hold the same names and shapes, and all values are finite.
"""

import numpy as np
from numpy.typing import NDArray

State = dict[str, np.ndarray]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# --- helpers ---------------------------------------------------------------------------------------------------------


def as_float64(state: State) -> dict[str, Array]:
    """Copy a state dict to float64."""
    return {name: np.array(value, dtype=np.float64) for name, value in state.items()}


def flatten(state: State, names: list[str]) -> Array:
    """Join the named tensors, in the order given, into one float64 vector."""
    return np.concatenate([np.asarray(state[name], dtype=np.float64).reshape(-1) for name in names])


def unflatten(vector: Array, like: State, names: list[str]) -> dict[str, Array]:
    """Cut a vector made by `flatten` back into tensors shaped as those of `like`."""
    result: dict[str, Array] = {}
    start = 0
    for name in names:
        size = like[name].size
        result[name] = vector[start : start + size].reshape(like[name].shape)
        start += size
    return result


def add_up(rows: Array) -> Array:
    """Sum over the models (the first axis), in the order of the models."""
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total = total + row
    return total


def divide(top: Array, bottom: Array) -> Array:
    """Divide, with 0 where the denominator is 0."""
    return np.asarray(np.where(bottom == 0, 0.0, top / np.where(bottom == 0, 1.0, bottom)))


def largest_magnitude(rows: Array) -> Array:
    """Per entry, the value with the largest magnitude over the models; the first model wins ties."""
    best = rows[0]
    for row in rows[1:]:
        best = np.where(np.abs(row) > np.abs(best), row, best)
    return np.asarray(best)


# --- linear and task arithmetic --------------------------------------------------------------------------------------


def linear(models: list[State], weight: list[float], normalize: bool = True) -> State:
    """Weighted sum of the models, divided by the sum of the weights if `normalize`."""
    divisor = sum(weight) if normalize else 1.0
    result: State = {}
    for name in models[0]:
        rows = np.stack([w * as_float64(model)[name] for w, model in zip(weight, models)])
        result[name] = add_up(rows) / divisor
    return result


def task_arithmetic(base: State, models: list[State], weight: list[float], scale: float) -> State:
    """Base plus `scale` times the weighted sum of the task vectors."""
    start = as_float64(base)
    result: State = {}
    for name in base:
        rows = np.stack([w * (as_float64(model)[name] - start[name]) for w, model in zip(weight, models)])
        result[name] = start[name] + scale * add_up(rows)
    return result


# --- TIES: trim ------------------------------------------------------------------------------------------------------


def keep_by_magnitude(tau: Array, density: float) -> Mask:
    """Keep what is at least as large as the m-th smallest magnitude (1-based), m = d - int(d * density)."""
    size = len(tau)
    m = size - int(size * density)
    if m == 0:
        return np.full(size, True)
    threshold = np.sort(np.abs(tau))[m - 1]
    return np.asarray(np.abs(tau) >= threshold)


def keep_by_norm(tau: Array, share: float) -> Mask:
    """Keep the shortest prefix, largest first, that holds `share` of the squared norm, its ties, and the last entry."""
    descending = np.sort(np.abs(tau))[::-1]
    running = np.cumsum(descending**2)
    if len(tau) == 0 or running[-1] == 0:
        return np.full(len(tau), True)
    reached = int(np.argmax(running / running[-1] >= share))  # the first place where it holds
    keep = np.abs(tau) >= descending[reached]
    keep[-1] = True
    return np.asarray(keep)


def keep_by_deviation(tau: Array, deviations: float) -> Mask:
    """Keep what lies more than `deviations` unbiased standard deviations from the mean; a lone entry never does."""
    if len(tau) < 2:
        return np.full(len(tau), False)
    mean = np.sum(tau) / len(tau)
    std = np.sqrt(np.sum((tau - mean) ** 2) / (len(tau) - 1))
    return np.asarray(np.abs(tau - mean) > deviations * std)


def trim_vector(tau: Array, trim: str, density: float, deviations: float) -> Array:
    """Set to zero the entries of one task vector that the trimming rule does not keep."""
    if trim == "magnitude":
        keep = keep_by_magnitude(tau, density)
    elif trim == "norm":
        keep = keep_by_norm(tau, density)
    elif trim == "deviation":
        keep = keep_by_deviation(tau, deviations)
    else:
        raise ValueError(f"unknown trim: {trim}")
    return np.where(keep, tau, 0.0)


# --- TIES: elect -----------------------------------------------------------------------------------------------------


def norm_shares(rows: Array) -> Array:
    """T^2 / ||T_i||^2 of every model i, all zero for a model of zero length."""
    return np.stack([row**2 / np.sum(row**2) if np.any(row**2) else np.zeros(len(row)) for row in rows])


def sign_of_largest_share(rows: Array) -> Array:
    """Per entry, the sign of the model in which that entry has the largest share; the first model wins ties."""
    shares = norm_shares(rows)
    best_share = np.zeros(rows.shape[1])
    sign = np.zeros(rows.shape[1])
    for row, share in zip(rows, shares):
        sign = np.where(share > best_share, np.sign(row), sign)
        best_share = np.maximum(share, best_share)
    return sign


def fill_zero_signs(sign: Array) -> Array:
    """Replace zero signs by the majority sign of the whole vector, which may itself be zero."""
    majority = np.sign(np.sum(sign))
    return np.where(sign == 0, majority, sign)


def elect_signs(rows: Array, elect: str) -> Array | None:
    """Elect one sign per entry from the weighted trimmed task vectors, or None for no election."""
    if elect == "none":
        return None
    if elect == "mass":
        sign = np.sign(add_up(rows))
    elif elect == "frequency":
        sign = np.sign(add_up(np.sign(rows)))
    elif elect == "normfrac":
        sign = sign_of_largest_share(rows)
    elif elect == "normmass":
        sign = np.sign(add_up(np.sign(rows) * norm_shares(rows)))
    else:
        raise ValueError(f"unknown elect: {elect}")
    return fill_zero_signs(sign)


# --- TIES: combine ---------------------------------------------------------------------------------------------------


def combine_disjoint(rows: Array, weight: list[float], sign: Array | None, combine: str) -> Array:
    """Mean, sum or max over the entries that agree with the sign (zero counts as minus), or all non-zero ones."""
    selected = rows != 0 if sign is None else np.where(sign > 0, rows > 0, rows < 0)
    kept = np.where(selected, rows, 0.0)
    if combine == "sum":
        return add_up(kept)
    if combine == "mean":
        counted = np.stack([abs(w) * chosen for w, chosen in zip(weight, selected)])
        return divide(add_up(kept), add_up(counted))
    largest = largest_magnitude(kept)
    return largest if sign is None else np.abs(largest) * sign


def combine_plain(rows: Array, weight: list[float], sign: Array | None, combine: str) -> Array:
    """Aggregate all entries, zeros included; with a sign, the result is the magnitude times that sign."""
    if combine == "plain_mean":
        value = divide(add_up(rows), np.full(rows.shape[1], sum(abs(w) for w in weight)))
    elif combine == "plain_sum":
        value = add_up(rows)
    elif combine == "median":
        value = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
    elif combine == "magnitude":
        value = largest_magnitude(rows)
    else:
        raise ValueError(f"unknown combine: {combine}")
    return value if sign is None else np.abs(value) * sign


def combine_rows(rows: Array, weight: list[float], sign: Array | None, combine: str) -> Array:
    """Combine the weighted trimmed task vectors into one."""
    if combine in ("mean", "sum", "max"):
        return combine_disjoint(rows, weight, sign, combine)
    return combine_plain(rows, weight, sign, combine)


# --- TIES: the whole method ------------------------------------------------------------------------------------------


def ties(
    base: State,
    models: list[State],
    *,
    density: list[float],
    weight: list[float],
    scale: float = 1.0,
    scope: str = "model",
    trim: str = "magnitude",
    elect: str | State = "mass",
    combine: str = "mean",
    deviations: list[float] | None = None,
) -> State:
    """Trim each task vector, elect a sign per entry, combine what agrees with it, add the result to the base."""
    if scope not in ("model", "tensor"):
        raise ValueError(f"unknown scope: {scope}")
    spread = [1.0] * len(models) if deviations is None else deviations
    groups = [sorted(base)] if scope == "model" else [[name] for name in sorted(base)]
    result: State = {}
    for names in groups:
        start = flatten(base, names)
        taus = [flatten(model, names) - start for model in models]
        trimmed = [trim_vector(tau, trim, density[i], spread[i]) for i, tau in enumerate(taus)]
        rows = np.stack([w * tau for w, tau in zip(weight, trimmed)])
        sign = elect_signs(rows, elect) if isinstance(elect, str) else flatten(elect, names)
        merged = start + scale * combine_rows(rows, weight, sign, combine)
        result.update(unflatten(merged, base, names))
    return result


# --- Fisher ----------------------------------------------------------------------------------------------------------


def fisher_norm(fisher: State) -> float:
    """Length of a Fisher taken as one vector over all its tensors."""
    return float(np.sqrt(sum(np.sum(value**2) for value in as_float64(fisher).values())))


def fisher(
    models: list[State],
    *,
    fisher: list[State | None],
    weight: list[float],
    normalize: bool = True,
    floor: float = 1e-6,
    favor_target: bool = True,
) -> State:
    """Average weighted by the diagonal Fishers; the weighted mean where no model has any."""
    parameters = [as_float64(model) for model in models]
    given = [as_float64(f) if f is not None else {n: np.ones(v.shape) for n, v in models[0].items()} for f in fisher]
    norms = [fisher_norm(f) for f in given]
    coefficients = [w / norm if normalize and norm != 0 else w for w, norm in zip(weight, norms)]
    floors = [floor if i == 0 or not favor_target else 0.0 for i in range(len(models))]
    result: State = {}
    for name in models[0]:
        top = np.zeros(models[0][name].shape)
        bottom = np.zeros(models[0][name].shape)
        for theta, f, c, least in zip(parameters, given, coefficients, floors):
            factor = c * np.maximum(f[name], least)
            top = top + factor * theta[name]
            bottom = bottom + factor
        result[name] = divide(top, bottom)
        if np.any(bottom == 0):
            result[name] = np.where(bottom == 0, linear(models, weight)[name], result[name])
    return result
