"""RegMean: the weights whose outputs are nearest to every model's, on that model's own inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weft.matrices.deltas import Tell, summed, with_weight

_DEFICIENT = (
    "{count} tensors have inputs, or mixtures of them, that no model's data move; along those they are averaged"
)


def regmean(
    tuned: tuple[Tensor | None, ...],
    gram: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    off_diagonal: float,
    name: str,
    transposed: Callable[[str], bool],
    tell: Tell,
) -> Tensor:
    """The W that minimises the sum of w tr (W - W_i) G_i (W - W_i)', in float64.

    It is found as the average plus D with D (sum w G_i) = sum w (W_i - average) G_i, so that directions which the Gram
    matrices do not know, such as dead inputs, keep the average.

    Args:
        tuned: of each model, outputs x inputs.
        gram: of the inputs of each model, inputs x inputs.
        weight: of each model.
        off_diagonal: factor of the Gram matrices off their diagonals.
        name: of the tensor.
        transposed: from a name to whether such tensors are inputs x outputs.
        tell: hears of Gram matrices without full rank.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> g, h = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> regmean((a, b), (g, h), (1.0, 1.0), 1.0, "w", lambda name: False, print).tolist()
        [[1.5, 2.0]]
    """
    weights = [w for w in weight if w != 0.0]
    stored = with_weight(gram, weight)[0].dtype
    turned = transposed(name)
    models = [upright(model, turned).double() for model in with_weight(tuned, weight)]
    grams = [w * shrunk(g, off_diagonal) for w, g in zip(weights, with_weight(gram, weight), strict=True)]
    average = summed([w / sum(weights) * model for w, model in zip(weights, models, strict=True)])
    wanted = summed([(model - average) @ g for model, g in zip(models, grams, strict=True)])
    change, is_full = solved(summed(grams), wanted.T, stored)
    if not is_full:
        tell(_DEFICIENT)
    return upright(average + change.T, turned)


def upright(matrix: Tensor, turned: bool) -> Tensor:
    """The transpose of a matrix that is turned."""
    return matrix.T if turned else matrix


def shrunk(gram: Tensor, off_diagonal: float) -> Tensor:
    """A Gram matrix in float64, exactly symmetric, with a factor off its diagonal.

    Example:
        >>> shrunk(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 0.5).tolist()
        [[2.0, 0.5], [0.5, 2.0]]
    """
    double = gram.double()
    made = (double + double.T) * (0.5 * off_diagonal)
    made.diagonal().copy_(double.diagonal())
    return made


def solved(matrix: Tensor, right: Tensor, stored: torch.dtype = torch.float64) -> tuple[Tensor, bool]:
    """The X with `matrix` X nearest to `right` that is zero where the matrix knows nothing, and whether it knows all.

    Rows and columns are first brought to a diagonal of ones, so that inputs of very different size count alike. What is
    then left of the matrix in a direction is nothing if it is less than the rounding of the numbers that were stored.

    Args:
        matrix: n x n, symmetric, no negative eigenvalues but for rounding, float64.
        right: n x k.
        stored: the precision that the matrix had before.

    Example:
        >>> x, is_full = solved(torch.tensor([[2.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([[4.0], [0.0]]).double())
        >>> x.tolist(), is_full
        ([[2.0], [0.0]], False)
    """
    size = matrix.diagonal().clamp(min=0.0).sqrt()
    scale = torch.where(size > 0, size, 1.0).reciprocal() * (size > 0)
    scaled = matrix * scale * scale[:, None]
    tolerance = torch.finfo(stored).eps * len(matrix) ** 0.5 + 10 * torch.finfo(matrix.dtype).eps * len(matrix)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not int(failed) and bool(factor.diagonal().min() ** 2 > tolerance):
        return scale[:, None] * torch.cholesky_solve(scale[:, None] * right, factor), True
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > tolerance
    inverse = torch.where(kept, values, 1.0).reciprocal() * kept
    return scale[:, None] * ((vectors * inverse) @ (vectors.T @ (scale[:, None] * right))), bool(kept.all())


def regmean_bytes(
    shape: tuple[int, ...], models: int, itemsize: int, sides: Callable[[tuple[int, ...]], tuple[int, ...]]
) -> int:
    """Bytes that `regmean` works with at most, in float64; `sides` as for `mats_bytes`."""
    m, n = shape
    (side,) = sides(shape)
    return 8 * ((2 * models + 4) * m * n + (models + 6) * side * side)
