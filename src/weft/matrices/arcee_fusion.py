"""Arcee Fusion: importances of parameters, from divergences of rows."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

_AT_ONCE = 1 << 20
"""Parameters whose rows are compared at a time."""


def arcee_fusion(base: Tensor, tuned: tuple[Tensor, ...], fences: float) -> Tensor:
    """The other model's parameters where they are important, else the base's.

    Args:
        base: any shape; a number is a row of length one.
        tuned: the only model's.
        fences: how many interquartile ranges above the median an importance must lie.

    Example:
        >>> base, tuned = torch.zeros(1, 5), torch.tensor([[0.1, -0.2, 0.3, 0.4, 2.0]])
        >>> arcee_fusion(base, (tuned,), 1.5)
        tensor([[0., 0., 0., 0., 2.]])
    """
    (other,) = tuned
    width = base.shape[-1] if base.dim() else 1
    score = _importance(other.reshape(-1, width), base.reshape(-1, width))
    low, middle, high = (_quantile(score, share) for share in (0.25, 0.5, 0.75))
    return torch.where(score.reshape(base.shape) >= middle + fences * (high - low), other, base)


def _importance(tuned: Tensor, base: Tensor) -> Tensor:
    """|change| times the divergence of its row, in float64."""
    score = torch.empty(tuned.shape, dtype=torch.float64, device=tuned.device)
    step = max(_AT_ONCE // tuned.shape[1], 1)
    for first in range(0, len(tuned), step):
        rows = slice(first, first + step)
        one, other = tuned[rows].double(), base[rows].double()
        score[rows] = (one - other).abs() * divergence(one, other)
    return score


def divergence(tuned: Tensor, base: Tensor) -> Tensor:
    """KL(softmax(tuned) || softmax(base)) of every row, shape [rows, 1].

    Summed from p (q/p - 1 - log(q/p)), whose terms are not negative and keep their digits where p and q nearly agree;
    the sum of p (q/p - 1) that they have more than the definition is zero. Where q is much more than p, q/p may be too
    large for a number, and q - p has all its digits.

    Example:
        >>> divergence(torch.tensor([[0.0, 1000.0]]), torch.tensor([[1000.0, 0.0]])).tolist()
        [[1000.0]]
    """
    log_p, log_q = torch.log_softmax(tuned, dim=1), torch.log_softmax(base, dim=1)
    p, back = log_p.exp(), log_q - log_p
    more = torch.where(back > 1.0, log_q.exp() - p, p * back.clamp(max=1.0).expm1())
    return (more - p * back).sum(1, keepdim=True)


def _quantile(score: Tensor, share: float) -> float:
    """The value at place floor(share (n - 1)) in order."""
    flat = score.reshape(-1)
    return float(flat.kthvalue(int(share * (len(flat) - 1)) + 1).values)


def arcee_fusion_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `arcee_fusion` works with at most: importances, a copy that is put in order, and some rows."""
    width = shape[-1] if shape else 1
    return 32 * prod(shape) + 8 * 11 * min(max(_AT_ONCE, width), prod(shape))
