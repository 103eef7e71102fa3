"""Task singular vectors (TSV-M): the strongest directions of every task, made orthogonal to each other."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.matrices.decompositions import Orthogonalisation, polar, significant, svd, svd_bytes
from weft.matrices.deltas import moved, task_vectors


def tsv(
    base: Tensor,
    tuned: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    scale: float,
    orthogonalise: Orthogonalisation,
    double: bool,
) -> Tensor:
    """Base plus scale times U' diag(S) V'', where U' and V'' are the tasks' singular vectors, orthogonalised together.

    Args:
        base: m x n.
        tuned: of each model.
        weight: factor of each task vector; a model of weight 0 is no task.
        scale: factor of the result.
        orthogonalise: by which decomposition.
        double: whether to compute in float64.

    Example:
        >>> a, b = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
        >>> tsv(torch.zeros(2, 2), (a, b), (1.0, 1.0), 1.0, "svd", False).abs().tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    deltas = task_vectors(base, tuned, weight, double)
    rank = min(base.shape) // len(deltas)
    parts = [svd(delta, rank) for delta in deltas]
    kept = [significant(part.s, base.shape) for part in parts]
    if not any(kept):
        return base
    u = torch.cat([part.u[:, :r] for part, r in zip(parts, kept, strict=True)], dim=1)
    s = torch.cat([part.s[:r] for part, r in zip(parts, kept, strict=True)])
    vh = torch.cat([part.vh[:r] for part, r in zip(parts, kept, strict=True)])
    return moved(base, scale, (polar(u, orthogonalise) * s) @ polar(vh, orthogonalise))


def tsv_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `tsv` works with at most, in float64."""
    m, n = shape
    return 8 * (models * m * n + 6 * (m + n) * min(shape)) + svd_bytes(shape, 8)
