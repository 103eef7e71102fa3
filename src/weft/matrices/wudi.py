"""WUDI: a merged change that interferes least with every task on the inputs that its task vector stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.matrices.deltas import moved, summed, task_vectors

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
"""Of Adam."""


def wudi(
    base: Tensor,
    tuned: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    scale: float,
    iterations: int,
    rate: float,
    double: bool,
) -> Tensor:
    """Base plus scale times X, which Adam moves from the sum of the task vectors towards less interference.

    Args:
        base: m x n.
        tuned: of each model.
        weight: factor of each task vector.
        scale: factor of the result.
        iterations: steps of Adam.
        rate: its learning rate.
        double: whether to compute in float64.

    Example:
        >>> a = torch.tensor([[1.0, 0.0]])
        >>> wudi(torch.zeros(1, 2), (a,), (1.0,), 1.0, 10, 1e-5, False).tolist()
        [[1.0, 0.0]]
    """
    deltas = [delta for delta in task_vectors(base, tuned, weight, double) if bool(delta.any())]
    if not deltas:
        return base
    x = summed(deltas)
    slope = Slope(deltas)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, iterations + 1):
        gradient = slope(x)
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        root = (second / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
        x.addcdiv_(first, root, value=-rate / (1 - _BETAS[0] ** step))
    return moved(base, scale, x)


class Slope:
    """The derivative of sum ||(X - tau) tau'||^2 / ||tau||^2 by X, over the task vectors tau.

    It is 2 (X H - C) with H = sum tau' tau / ||tau||^2, n x n, and C = sum tau tau' tau / ||tau||^2: one product a
    step, where that is cheaper than two for every task.

    Args:
        deltas: the task vectors, none of them zero.

    Example:
        >>> Slope([torch.tensor([[2.0]])])(torch.tensor([[5.0]])).tolist()
        [[6.0]]
    """

    def __init__(self, deltas: list[Tensor]) -> None:
        self._deltas = deltas
        self._sizes = [delta.square().sum() for delta in deltas]
        m, n = deltas[0].shape
        self._together = n <= 2 * m * len(deltas)
        if self._together:
            grams = [delta.T @ delta / size for delta, size in zip(deltas, self._sizes, strict=True)]
            self._fixed = summed([delta @ gram for delta, gram in zip(deltas, grams, strict=True)])
            self._gram = summed(grams)

    def __call__(self, x: Tensor) -> Tensor:
        """At X."""
        if self._together:
            return 2 * (x @ self._gram - self._fixed)
        terms = ((x - delta) @ delta.T @ delta / size for delta, size in zip(self._deltas, self._sizes, strict=True))
        return 2 * summed(list(terms))


def wudi_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that `wudi` works with at most, in float64."""
    m, n = shape
    small = (models + 1) * n * n if n <= 2 * m * models else models * m * m
    return 8 * ((2 * models + 9) * m * n + small)
