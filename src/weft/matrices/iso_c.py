"""Iso-C: the sum of the task matrices, all its singular values made equal."""

from __future__ import annotations

from torch import Tensor

from weft.matrices.decompositions import significant, svd, svd_bytes
from weft.matrices.deltas import DEFICIENT, Tell, moved, summed, task_vectors


def iso_c(
    base: Tensor,
    tuned: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    scale: float,
    double: bool,
    tell: Tell,
) -> Tensor:
    """Base plus scale times the mean singular value times U V' of the sum of the task vectors.

    Args:
        base: m x n.
        tuned: of each model.
        weight: factor of each task vector.
        scale: factor of the result.
        double: whether to compute in float64.
        tell: hears of matrices without full rank.

    Example:
        >>> import torch
        >>> a = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> iso_c(torch.zeros(2, 2), (a,), (1.0,), 1.0, False, print).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """
    u, s, vh = svd(summed(task_vectors(base, tuned, weight, double)))
    rank = significant(s, base.shape)
    if rank < min(base.shape):
        tell(DEFICIENT)
    if rank == 0:
        return base
    return moved(base, scale, s[:rank].mean() * (u[:, :rank] @ vh[:rank]))


def iso_c_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `iso_c` works with at most, in float64."""
    m, n = shape
    return 8 * (models + 3) * m * n + svd_bytes(shape, 8)
