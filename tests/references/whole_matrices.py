"""The methods that see whole tensors, on one tensor, by the parameters that they have; all float64.

What is zero but for rounding is left out, as the methods promise: `least` says what is rounding, in units of the
largest singular value for each row or column. With 0 nothing is left out, and these are the formulas of the papers.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tests.references import mats as matching
from tests.references import spectral, wudi
from tests.references.blends import importance
from tests.references.catalogue import mean_cosine
from tests.references.common import Array, add_up
from tests.references.regmean import shrunk

Triplets = tuple[Array, Array, Array]


def significant(triplets: Triplets, bar: float) -> Triplets:
    """Those with a singular value above the bar."""
    u, s, vt = triplets
    kept = s > bar
    return u[:, kept], s[kept], vt[kept]


def triplets(matrix: Array, least: float) -> Triplets:
    """The thin singular value decomposition without directions that are rounding."""
    u, s, vt = spectral.svd(matrix)
    return significant((u, s, vt), max(matrix.shape) * least * float(s[0]))


def first(some: Triplets, count: int) -> Triplets:
    """The strongest."""
    u, s, vt = some
    return u[:, :count], s[:count], vt[:count]


def polar(matrix: Array, least: float) -> Array:
    """The nearest matrix with orthonormal columns or rows."""
    u, _, vt = triplets(matrix, least)
    return np.asarray(u @ vt)


def tsv(taus: list[Array], least: float, *, orthogonalise: str) -> Array:
    """The change of TSV-Merge; by `eigen` it loses directions that are hundred million times weaker."""
    rank = min(taus[0].shape) // len(taus)
    parts = [triplets(tau, least) for tau in taus if tau.any()]
    parts = [first(part, rank) for part in parts]
    if not parts:
        return np.zeros(taus[0].shape)
    left, right = np.hstack([u for u, _, _ in parts]), np.vstack([vt for _, _, vt in parts])
    bar = least if orthogonalise == "svd" else 1e-8
    values = np.concatenate([s for _, s, _ in parts])
    return np.asarray((polar(left, bar) * values) @ polar(right, bar))


def iso_c(taus: list[Array], least: float) -> Array:
    """The change of Iso-C."""
    total = add_up(np.stack(taus))
    if not total.any():
        return total
    u, s, vt = triplets(total, least)
    return np.asarray(np.mean(s) * (u @ vt))


def iso_cts(taus: list[Array], least: float, *, fraction: float) -> Array:
    """The change of Iso-CTS."""
    smallest, tasks = min(taus[0].shape), len(taus)
    each = min(round((smallest - int(smallest * fraction)) / tasks), smallest // tasks)
    common = smallest - each * tasks
    total = spectral.svd(add_up(np.stack(taus)))
    shared = total[0][:, :common]
    parts = []
    for tau in taus:
        own = first(spectral.svd(tau - shared @ (shared.T @ tau)), each)
        parts.append(significant(own, max(tau.shape) * least * float(np.linalg.norm(tau))))
    parts.append(first(significant(total, max(taus[0].shape) * least * float(total[1][0])), common))
    values = np.concatenate([s for _, s, _ in parts])
    if not len(values):
        return np.zeros(taus[0].shape)
    left, right = np.hstack([u for u, _, _ in parts]), np.vstack([vt for _, _, vt in parts])
    return np.asarray(np.mean(values) * (polar(left, least) @ polar(right, least)))


def adam(taus: list[Array], least: float, *, iterations: int, rate: float) -> Array:
    """The change of WUDI."""
    moved = [tau for tau in taus if tau.any()]
    return wudi.adam(add_up(np.stack(taus)), moved, iterations, rate) if moved else np.zeros(taus[0].shape)


def svc(merged: Array, taus: list[Array], *, alpha: float) -> Array:
    """The merged change with calibrated singular values; a task that does not move in a direction counts alpha."""
    u, s, vt = spectral.svd(merged)
    counted = np.zeros(len(s))
    for tau in taus:
        response = u.T @ tau
        size = np.sum(response**2, axis=1)
        share = np.sum((u.T @ merged) * response, axis=1) / np.where(size > 0, size, 1.0)
        counted += np.maximum(np.where(size > 0, share, 0.0), alpha)
    return np.asarray((u * (s * len(taus) / counted)) @ vt)


def regmean(tuned: list[Array], grams: list[Array], weight: list[float], least: float, *, off_diagonal: float) -> Array:
    """The average, and what the Gram matrices tell beyond; inputs are first brought to the same size."""
    average = add_up(np.stack([w * t for w, t in zip(weight, tuned)])) / sum(weight)
    known = [w * shrunk((g + g.T) / 2, off_diagonal) for w, g in zip(weight, grams)]
    whole, right = add_up(np.stack(known)), add_up(np.stack([(t - average) @ g for t, g in zip(tuned, known)]))
    size = np.sqrt(np.maximum(np.diag(whole), 0.0))
    scale = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 0.0)
    values, vectors = np.linalg.eigh(whole * scale * scale[:, None])
    bar = least * len(whole) ** 0.5 + 10 * 2.0**-52 * len(whole)
    inverse = np.where(values > bar, 1 / np.where(values > bar, values, 1.0), 0.0)
    return np.asarray(average + ((right * scale) @ vectors * inverse) @ vectors.T * scale)


def steps(product: Callable[[Array], Array], right: Array, start: Array, iterations: int, tolerance: float) -> Array:
    """Conjugate gradients, until the residual is below `tolerance` right sides; where nothing is known they end."""
    x, residual = start.copy(), right - product(start)
    goal = tolerance * np.linalg.norm(right)
    direction, square = residual, float(np.sum(residual**2))
    for _ in range(iterations if right.any() else 0):
        image = product(direction)
        curvature = float(np.sum(direction * image))
        if square**0.5 < goal or curvature <= 0:
            break
        x, residual = x + square / curvature * direction, residual - square / curvature * image
        before, square = square, float(np.sum(residual**2))
        direction = residual + square / before * direction
    return x


def mats(
    tuned: list[Array],
    weight: list[float],
    *,
    objective: str,
    off_diagonal: float,
    iterations: int,
    tolerance: float,
    start: Array | None,
    gram: list[Array] | None = None,
    gradients: list[Array] | None = None,
    fisher: list[Array] | None = None,
) -> Array:
    """Matching in subspaces, from a start or the average."""
    begin = add_up(np.stack([w * t for w, t in zip(weight, tuned)])) / sum(weight) if start is None else start
    times = [lambda x: x for _ in tuned]
    if objective == "fisher":
        assert fisher is not None
        times = [lambda x, f=f: f * x for f in fisher]
    elif objective in ("gram", "kfac"):
        assert gram is not None
        sides = gradients or [None] * len(gram)
        blocks = [
            matching.Blocks(shrunk(g, off_diagonal), None if b is None else shrunk(b, off_diagonal))
            for g, b in zip(gram, sides)
        ]
        times = [block.times for block in blocks]
    right = add_up(np.stack([w * by(t) for w, by, t in zip(weight, times, tuned)]))

    def product(x: Array) -> Array:
        return add_up(np.stack([w * by(x) for w, by in zip(weight, times)]))

    return steps(product, right, begin, iterations, tolerance)


def stock_rows(taus: list[Array], least: float, *, average: str, clamp: bool) -> Array:
    """Model Stock, row by row."""
    width = taus[0].shape[-1] if taus[0].ndim else 1
    rows = np.stack([tau.reshape(-1, width) for tau in taus], axis=1)
    return np.stack([stocked(row, average, clamp) for row in rows]).reshape(taus[0].shape)


def stocked(taus: Array, average: str, clamp: bool) -> Array:
    """The change of one row."""
    count, cosine = len(taus), mean_cosine(taus, average)
    bottom = 1 + (count - 1) * cosine
    t = 0.0 if abs(bottom) < 1e-6 else count * cosine / bottom
    return np.asarray((min(max(t, 0.0), 1.0) if clamp else t) * add_up(taus) / count)


def arcee_fusion(base: Array, tuned: Array, *, fences: float) -> tuple[Array, float]:
    """The importances, and from which on the other model's parameters are taken."""
    score = importance(tuned, base)
    low, middle, high = np.quantile(score, [0.25, 0.5, 0.75], method="lower")
    return score, float(middle + fences * (high - low))


CHANGES: Mapping[str, Callable[..., Array]] = {
    "tsv": tsv,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "wudi": adam,
    "model_stock": stock_rows,
}
"""By method: from the weighted task vectors to the merged one."""
