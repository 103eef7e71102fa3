"""Methods on the singular vectors of task matrices: TSV-Merge (2412.00081), Iso-C and Iso-CTS (2502.04959)."""

from collections.abc import Callable

import numpy as np

from tests.references.common import Array, State, add_up, change, excluded, merged_from

Merge = Callable[[list[Array]], Array]


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Thin singular value decomposition: U, the singular values descending, V transposed."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def polar(matrix: Array) -> Array:
    """The nearest matrix with orthonormal columns (or rows): U V^T of the thin SVD."""
    u, _, vt = svd(matrix)
    return u @ vt


def whitened(columns: Array) -> Array:
    """A (A^T A)^(-1/2), the same by an eigendecomposition, with 1 / (sqrt|eigenvalue| + 1e-12)."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return columns @ (vectors * (1 / (np.sqrt(np.abs(values)) + 1e-12))) @ vectors.T


def rank_per_task(matrix: Array, tasks: int) -> int:
    """int(min(m, n) * (1 / T)): the product of floats can lose one, 49 * (1 / 49) is 48.99...: rank 0 for 49 tasks."""
    return int(min(matrix.shape) * (1 / tasks))


def low_rank(matrix: Array, rank: int) -> Array:
    """The best approximation of a rank."""
    u, s, vt = svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def tsv_parts(taus: list[Array], decorrelate: str = "svd") -> list[Array]:
    """The share of every task in TSV-Merge: its top singular vectors, made orthogonal to those of the others.

    The official buffers are padded with zero columns; with them the polar factor is not unique, but those columns have
    zero singular weight, and the others are the polar factor without them.
    """
    rank = rank_per_task(taus[0], len(taus))
    if rank == 0:
        return [np.zeros(tau.shape) for tau in taus]
    parts = [svd(tau) for tau in taus]
    left = np.concatenate([u[:, :rank] for u, _, _ in parts], axis=1)
    right = np.concatenate([vt[:rank] for _, _, vt in parts], axis=0)
    if decorrelate == "svd":
        left, right = polar(left), polar(right)
    else:
        left, right = whitened(left), whitened(right.T).T
    places = [slice(i * rank, (i + 1) * rank) for i in range(len(taus))]
    return [(left[:, place] * s[:rank]) @ right[place] for place, (_, s, _) in zip(places, parts)]


def tsv_matrix(taus: list[Array], decorrelate: str = "svd") -> Array:
    """The merged change of one matrix: the sum of the shares. Rank 0, more tasks than min(m, n), gives zeros."""
    return add_up(np.stack(tsv_parts(taus, decorrelate)))


def iso_c_matrix(taus: list[Array]) -> Array:
    """The sum of the task matrices with all singular values replaced by their mean."""
    u, s, vt = svd(add_up(np.stack(taus)))
    return float(np.mean(s)) * (u @ vt)


def iso_sizes(smallest: int, tasks: int, fraction: float) -> tuple[int, int]:
    """How many common directions and how many of each task; halves round to even, and neither is below zero.

    With fewer dimensions than tasks the official sizes can become negative; here the tasks get none then.
    """
    each = round((smallest - int(smallest * fraction)) / tasks)
    if each * tasks > smallest:
        each = 0
    return smallest - each * tasks, each


def iso_cts_matrix(taus: list[Array], fraction: float) -> Array:
    """Common directions of the sum and directions of each task outside them, made orthogonal, of equal strength."""
    common, each = iso_sizes(min(taus[0].shape), len(taus), fraction)
    u, s, vt = svd(add_up(np.stack(taus)))
    outside = [svd(tau - u[:, :common] @ (u[:, :common].T @ tau)) for tau in taus]
    left = np.concatenate([*(p[0][:, :each] for p in outside), u[:, :common]], axis=1)
    right = np.concatenate([*(p[2][:each] for p in outside), vt[:common]], axis=0)
    values = np.concatenate([*(p[1][:each] for p in outside), s[:common]])
    return float(np.mean(values)) * (polar(left) @ polar(right))


def by_matrix(base: State, models: list[State], exclude: list[str], scale: float, merge: Merge) -> State:
    """Base plus `scale` times the merged matrices, and for all other tensors times the mean of the changes."""
    changes = [change(base, model) for model in models]
    merged: State = {}
    for name in base:
        taus = [delta[name] for delta in changes]
        whole = taus[0].ndim == 2 and not excluded(name, exclude)
        merged[name] = merge(taus) if whole else add_up(np.stack(taus)) / len(taus)
    return merged_from(base, merged, scale)


def tsv(
    base: State,
    models: list[State],
    *,
    weight: list[float] | None = None,
    scale: float = 1.0,
    exclude: list[str] | None = None,
    decorrelate: str = "svd",
) -> State:
    """TSV-Merge. `exclude` holds patterns of names; the official code excludes `*text_projection*`.

    `weight` multiplies the task vectors beforehand, the matrices and the others.
    """
    factors = weight or [1.0] * len(models)
    weighed = [merged_from(base, change(base, model), w) for w, model in zip(factors, models)]
    return by_matrix(base, weighed, exclude or [], scale, lambda taus: tsv_matrix(taus, decorrelate))


def tsv_compressed(base: State, models: list[State]) -> list[State]:
    """TSV-Compress: the task vectors with every matrix cut to rank int(min(m, n) / T), other tensors whole.

    The golden case decides that other tensors stay whole.
    """
    result: list[State] = []
    for model in models:
        delta = change(base, model)
        result.append(
            {
                name: low_rank(tau, rank_per_task(tau, len(models))) if tau.ndim == 2 else tau
                for name, tau in delta.items()
            }
        )
    return result


def iso_c(base: State, models: list[State], *, scale: float = 1.0, exclude: list[str] | None = None) -> State:
    """Iso-C: isotropic merging in the common space."""
    return by_matrix(base, models, exclude or [], scale, iso_c_matrix)


def iso_cts(
    base: State,
    models: list[State],
    *,
    fraction: float = 0.8,
    scale: float = 1.0,
    exclude: list[str] | None = None,
) -> State:
    """Iso-CTS: isotropic merging in the common and the tasks' own spaces."""
    return by_matrix(base, models, exclude or [], scale, lambda taus: iso_cts_matrix(taus, fraction))
