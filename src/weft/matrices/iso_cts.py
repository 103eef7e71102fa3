"""Iso-CTS: common directions of all tasks and directions of each, orthogonal, all of equal strength."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.matrices.decompositions import Svd, polar, significant, svd, svd_bytes
from weft.matrices.deltas import DEFICIENT, Tell, moved, summed, task_vectors


def iso_cts(
    base: Tensor,
    tuned: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    scale: float,
    fraction: float,
    double: bool,
    tell: Tell,
) -> Tensor:
    """Base plus scale times the mean singular value times polar(U) polar(V)' of common and tasks' own directions.

    Args:
        base: m x n.
        tuned: of each model.
        weight: factor of each task vector.
        scale: factor of the result.
        fraction: how much of all directions is common.
        double: whether to compute in float64.
        tell: hears of matrices without full rank.

    Example:
        >>> a, b = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([[4.0, 0.0], [0.0, 0.0]])
        >>> iso_cts(torch.zeros(2, 2), (a, b), (1.0, 1.0), 1.0, 1.0, False, print).tolist()
        [[4.5, 0.0], [0.0, 4.5]]
    """
    deltas = task_vectors(base, tuned, weight, double)
    total = svd(summed(deltas))
    common, each = sizes(min(base.shape), len(deltas), fraction)
    shared = total.u[:, :common]
    parts = [_own(delta, shared, each) for delta in deltas] if each else []
    rank = min(common, significant(total.s, base.shape))
    parts.append(Svd(total.u[:, :rank], total.s[:rank], total.vh[:rank]))
    s = torch.cat([part.s for part in parts])
    if len(s) < min(base.shape):
        tell(DEFICIENT)
    if len(s) == 0:
        return base
    u, vh = torch.cat([part.u for part in parts], dim=1), torch.cat([part.vh for part in parts])
    return moved(base, scale, s.mean() * (polar(u) @ polar(vh)))


def _own(delta: Tensor, shared: Tensor, count: int) -> Svd:
    """The strongest directions of a task outside the common space, as far as they are more than rounding errors."""
    u, s, vh = svd(delta - shared @ (shared.T @ delta), count)
    rank = significant(s, delta.shape, torch.linalg.vector_norm(delta))
    return Svd(u[:, :rank], s[:rank], vh[:rank])


def sizes(directions: int, tasks: int, fraction: float) -> tuple[int, int]:
    """How many directions are common, and how many each task has of its own; halves are rounded to even.

    Args:
        directions: min(m, n).
        tasks: how many there are.
        fraction: what share should be common.

    Example:
        >>> sizes(15, 3, 0.8), sizes(14, 3, 0.8), sizes(2, 8, 0.0)
        ((12, 1), (11, 1), (2, 0))
    """
    each = min(round((directions - int(directions * fraction)) / tasks), directions // tasks)
    return directions - each * tasks, each


def iso_cts_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `iso_cts` works with at most, in float64."""
    m, n = shape
    return 8 * ((models + 4) * m * n + 6 * (m + n) * min(shape)) + svd_bytes(shape, 8)
