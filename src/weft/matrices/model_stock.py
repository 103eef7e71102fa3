"""Model Stock with an angle of its own for every row."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from weft.matrices.deltas import task_vectors


def model_stock(
    base: Tensor, tuned: tuple[Tensor | None, ...], average: Literal["angle", "cosine"], clamp: bool
) -> Tensor:
    """Base plus, in every row along the last dimension, t times the mean of the task vectors.

    Args:
        base: any shape; a number is a row of length one.
        tuned: of each model.
        average: what is averaged over the pairs of models.
        clamp: whether t is kept between 0 and 1.

    Example:
        >>> base, a, b = torch.zeros(2, 2), torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> model_stock(base, (a, b), "angle", False).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    width = base.shape[-1] if base.dim() else 1
    deltas = [delta.reshape(-1, width) for delta in task_vectors(base, tuned, (1.0,) * len(tuned), False)]
    together = _mean_cosine(deltas, average)
    bottom = 1.0 + (len(deltas) - 1) * together
    t = torch.where(bottom.abs() >= 1e-6, len(deltas) * together / bottom, 0.0)
    t = t.clamp(0.0, 1.0) if clamp else t
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += delta
    return base + (total * (t / len(deltas)).to(total)[:, None]).reshape(base.shape)


def _mean_cosine(deltas: list[Tensor], average: str) -> Tensor:
    """One for every row, in float64."""
    lengths = [torch.linalg.vector_norm(delta, dim=1, dtype=torch.float64) for delta in deltas]
    cosines = []
    for i, j in combinations(range(len(deltas)), 2):
        length = lengths[i] * lengths[j]
        product = (deltas[i].double() * deltas[j].double()).sum(1)
        cosines.append(torch.where(length > 0.0, product / length, 0.0).clamp(-1.0, 1.0))
    every = torch.stack(cosines)
    return every.acos().mean(0).cos() if average == "angle" and len(every) > 1 else every.mean(0)


def model_stock_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `model_stock` works with at most."""
    size = 1
    for side in shape:
        size *= side
    rows = size // shape[-1] if shape else 1
    return (models + 2) * size * itemsize + 24 * size + 8 * rows * models * models
