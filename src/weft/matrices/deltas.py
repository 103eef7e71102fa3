"""Task vectors of whole tensors, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tell = Callable[[str], None]

DEFICIENT = "{count} matrices have directions in which no task vector moves; those stay where they are"
"""What is told of a matrix without full rank."""


def task_vectors(
    base: Tensor, tuned: Sequence[Tensor | None], weight: Sequence[float], double: bool = False
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


def summed(deltas: Sequence[Tensor]) -> Tensor:
    """Their sum, in their order, as a tensor of its own."""
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += delta
    return total


def moved(base: Tensor, scale: float, delta: Tensor) -> Tensor:
    """Base plus scale times a change, in the precision of the base."""
    return (base.to(delta.dtype) + scale * delta).to(base.dtype)


def with_weight(tensors: Sequence[Tensor | None], weight: Sequence[float]) -> list[Tensor]:
    """The tensors of the models that have a weight.

    Example:
        >>> with_weight((torch.tensor([3.0]), None), (0.5, 0.0))
        [tensor([3.])]
    """
    return [t for t, w in zip(tensors, weight, strict=True) if w != 0.0 and t is not None]
