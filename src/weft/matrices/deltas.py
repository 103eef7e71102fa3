"""Task vectors of whole tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def task_vectors(
    base: Tensor, tuned: tuple[Tensor | None, ...], weight: tuple[float, ...], double: bool = False
) -> list[Tensor]:
    """Weight times (tuned minus base) for every model that has a weight.

    Args:
        base: of any shape.
        tuned: of each model; None where the weight is 0.
        weight: of each model.
        double: whether in float64.

    Example:
        >>> task_vectors(torch.tensor([1.0]), (torch.tensor([3.0]), None), (0.5, 0.0))
        [tensor([1.])]
    """
    dtype = torch.float64 if double else base.dtype
    pairs = ((t, w) for t, w in zip(tuned, weight, strict=True) if w != 0.0 and t is not None)
    return [w * (t.to(dtype) - base.to(dtype)) for t, w in pairs]
