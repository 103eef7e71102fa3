"""Methods that look at one entry (or one row) at a time: passthrough, median, nearswap, Arcee fusion."""

import numpy as np

from tests.references.common import Array, State, as_float64, change, merged_from


def passthrough(models: list[State], *, factor: float = 1.0) -> State:
    """The only model, times a factor."""
    (model,) = models
    return {name: factor * value for name, value in as_float64(model).items()}


def median(models: list[State], *, lower: bool = False) -> State:
    """Per entry the median of the models; of an even number the mean of the middle two, or their `lower` one."""
    result: State = {}
    for name in models[0]:
        ordered = np.sort(np.stack([as_float64(model)[name] for model in models]), axis=0)
        low, high = ordered[(len(models) - 1) // 2], ordered[len(models) // 2]
        result[name] = low if lower else (low + high) / 2
    return result


def nearswap(base: State, models: list[State], *, t: float) -> State:
    """Move the base towards the only model by min(1, t / max(|difference|, 1e-6)) of the way."""
    (model,) = models
    tau = change(base, model)
    return merged_from(base, {n: np.clip(t / np.maximum(np.abs(d), 1e-6), 0, 1) * d for n, d in tau.items()})


def log_softmax(rows: Array) -> Array:
    """Logarithm of the softmax along the last axis."""
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def divergence(tuned: Array, start: Array) -> Array:
    """KL(softmax(tuned) || softmax(start)) of each row along the last axis, kept as an axis of length one.

    Summed from terms p (log p - log q) - p + q >= 0, which keeps digits where the two distributions nearly agree; where
    they do not, q - p is taken as it stands, since q / p may be too large for a number.
    """
    log_p, log_q = log_softmax(tuned), log_softmax(start)
    p, q, back = np.exp(log_p), np.exp(log_q), log_q - log_p
    more = np.where(back > 1, q - p, p * np.expm1(np.minimum(back, 1)))
    return np.sum(more - p * back, axis=-1, keepdims=True)


def importance(tuned: Array, start: Array) -> Array:
    """|tuned - start| times the divergence of its row; a lone number is a row of length one, of divergence 0."""
    rows = (1, 1) if tuned.ndim == 0 else tuned.shape
    value = np.abs(tuned - start).reshape(rows) * divergence(tuned.reshape(rows), start.reshape(rows))
    return value.reshape(tuned.shape)


def arcee_fusion(base: State, models: list[State], *, fences: float = 1.5) -> State:
    """Copy the entries of the only model whose importance is at least median + 1.5 IQR (`fences`) of their tensor.

    A quantile q of n importances is the sorted one at index floor(q (n - 1)), the median too: the specification leaves
    this open, and of the usual rules only this one gives the outputs of mergekit 0.1.5 (400 random matrices of 4 to 20
    entries, no difference; 93 differ if quantiles are interpolated). mergekit samples one million importances of larger
    tensors; here all count. There is no golden case.
    """
    (model,) = models
    start, tuned = as_float64(base), as_float64(model)
    result: State = {}
    for name in start:
        score = importance(tuned[name], start[name])
        low, middle, high = np.quantile(score, [0.25, 0.5, 0.75], method="lower")
        result[name] = np.where(score >= middle + fences * (high - low), tuned[name], start[name])
    return result
