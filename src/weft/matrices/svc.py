"""SVC: the singular values of a merged change, calibrated by how much of it every task contributed."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.matrices.decompositions import svd, svd_bytes
from weft.matrices.deltas import moved, with_weight


def svc(
    base: Tensor,
    tuned: tuple[Tensor | None, ...],
    merged: Tensor,
    weight: tuple[float, ...] | None,
    alpha: float,
    double: bool,
) -> Tensor:
    """Base plus the merged change with its singular values times T / sum of max(alpha, consistency).

    Args:
        base: m x n.
        tuned: of each model; None for one that lacks the tensor.
        merged: what another method made of them.
        weight: that method's factor of each model, 0 for one that is no task; None if it has no such factors.
        alpha: smallest consistency that counts.
        double: whether to compute in float64.

    Example:
        >>> a, b = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> svc(torch.zeros(2, 2), (a, b), (a + b) / 2, None, 0.25, False).tolist()  # doctest: +SKIP
        [[5.333, 0.0], [0.0, 2.667]]
    """
    dtype = torch.float64 if double else base.dtype
    present = with_weight(tuned, weight or (1.0,) * len(tuned))
    if not present:
        return merged
    u, s, vh = svd(merged.to(dtype) - base.to(dtype))
    counted = torch.zeros_like(s)
    for model in present:
        response = u.T @ (model.to(dtype) - base.to(dtype))
        counted += consistency(s, vh, response).clamp(min=alpha)
    return moved(base, 1.0, (u * (s * len(present) / counted)) @ vh)


def consistency(s: Tensor, vh: Tensor, response: Tensor) -> Tensor:
    """How much of a task is in the merged change, direction by direction: 0 where the task does not move.

    Args:
        s: singular values of the merged change.
        vh: its right singular vectors.
        response: of the task, in the directions of its left singular vectors.
    """
    size = response.square().sum(dim=1)
    shared = s * (vh * response).sum(dim=1)
    return torch.where(size > 0, shared / torch.where(size > 0, size, 1.0), 0.0)


def svc_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `svc` works with at most."""
    m, n = shape
    return itemsize * 8 * m * n + svd_bytes(shape, itemsize)
