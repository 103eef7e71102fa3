"""MaTS: the parameters nearest to all models, distances being measured in every model's own subspace of its task.

All solve (sum w C_i) theta = sum w C_i theta_i by conjugate gradients, in float64. They differ in C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weft.matrices.deltas import summed, with_weight
from weft.matrices.regmean import shrunk

Measure = Callable[[str, float], None]
Operator = Callable[[Tensor], Tensor]

_RESIDUAL = "relative residual of the conjugate gradients"


def mats_identity(
    tuned: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    """C is the identity: the average, reached in one step.

    Args:
        tuned: of each model.
        weight: of each model.
        origin: where the iteration starts; None is at the average.
        iterations: how many at most.
        tolerance: the residual, in lengths of the right side, at which it stops.
        measure: hears the residual at the end.
    """
    ones = [torch.ones_like(t) for t in with_weight(tuned, weight)]
    operators = [_times(one.double()) for one in ones]
    return _merged(tuned, weight, operators, origin, iterations, tolerance, measure)


def mats_fisher(
    tuned: tuple[Tensor | None, ...],
    fisher: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    """C is a diagonal Fisher, of the shape of the parameters. The other arguments as for `mats_identity`."""
    operators = [_times(f.double()) for f in with_weight(fisher, weight)]
    return _merged(tuned, weight, operators, origin, iterations, tolerance, measure)


def mats_gram(
    tuned: tuple[Tensor | None, ...],
    gram: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    off_diagonal: float,
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    """C is the Gram matrix of a layer's inputs, for each output; or the whole Fisher matrix of a vector.

    Args:
        tuned: of each model, outputs x inputs; or a vector.
        gram: of each model, inputs x inputs.
        weight: of each model.
        off_diagonal: factor of the Gram matrices off their diagonals.
        origin: as the others, as for `mats_identity`.
        iterations: how many at most.
        tolerance: where it stops.
        measure: hears the residual.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> g, h = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> merged = mats_gram((a, b), (g, h), (1.0, 1.0), 1.0, None, 100, 1e-10, lambda name, value: None)
        >>> [round(x, 6) for x in merged[0].tolist()]
        [1.5, 2.0]
    """
    operators = [_on_the_right(shrunk(g, off_diagonal)) for g in with_weight(gram, weight)]
    return _merged(tuned, weight, operators, origin, iterations, tolerance, measure)


def mats_kfac(
    tuned: tuple[Tensor | None, ...],
    gram: tuple[Tensor | None, ...],
    gradients: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    off_diagonal: float,
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    """C is the Kronecker product of the Gram matrices of a layer's inputs and of the gradients of its outputs.

    Args:
        tuned: of each model, outputs x inputs.
        gram: of each model, inputs x inputs.
        gradients: of each model, outputs x outputs.
        weight: of each model.
        off_diagonal: factor of both off their diagonals.
        origin: as the others, as for `mats_identity`.
        iterations: how many at most.
        tolerance: where it stops.
        measure: hears the residual.
    """
    pairs = zip(with_weight(gram, weight), with_weight(gradients, weight), strict=True)
    operators = [_on_both_sides(shrunk(b, off_diagonal), shrunk(a, off_diagonal)) for a, b in pairs]
    return _merged(tuned, weight, operators, origin, iterations, tolerance, measure)


def _times(diagonal: Tensor) -> Operator:
    return lambda x: diagonal * x


def _on_the_right(matrix: Tensor) -> Operator:
    return lambda x: x @ matrix


def _on_both_sides(left: Tensor, right: Tensor) -> Operator:
    return lambda x: left @ x @ right


def _merged(
    tuned: Sequence[Tensor | None],
    weight: Sequence[float],
    operators: Sequence[Operator],
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    weights = [w for w in weight if w != 0.0]
    models = [model.double() for model in with_weight(tuned, weight)]
    average = summed([w / sum(weights) * model for w, model in zip(weights, models, strict=True)])
    right = summed([w * times(x) for w, times, x in zip(weights, operators, models, strict=True)])

    def together(x: Tensor) -> Tensor:
        return summed([w * times(x) for w, times in zip(weights, operators, strict=True)])

    start = average if origin is None else origin.double()
    found, residual = conjugate_gradients(together, right, start, iterations, tolerance)
    measure(_RESIDUAL, residual)
    return found


def conjugate_gradients(
    times: Operator, right: Tensor, start: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """Solve A x = b for a symmetric A without negative eigenvalues, and how far it came: ||b - A x|| / ||b||.

    Args:
        times: from x to A x.
        right: b.
        start: where the iteration starts; what A does not know of stays as it is there.
        iterations: how many at most.
        tolerance: the residual, in lengths of b, at which it stops.

    Example:
        >>> conjugate_gradients(lambda x: 2 * x, torch.tensor([4.0]), torch.tensor([0.0]), 5, 1e-5)
        (tensor([2.]), 0.0)
    """
    length = float(torch.linalg.vector_norm(right))
    x = start.clone()
    residual = right - times(x)
    if length == 0.0:
        return x, 0.0
    direction, before = residual.clone(), float(residual.square().sum())
    for _ in range(iterations):
        if before**0.5 < tolerance * length:
            break
        image = times(direction)
        curvature = float((direction * image).sum())
        if curvature <= 0.0:
            break  # nothing is known in what is left of the residual
        x += before / curvature * direction
        residual -= before / curvature * image
        now = float(residual.square().sum())
        direction = residual + now / before * direction
        before = now
    return x, before**0.5 / length


def mats_bytes(shape: tuple[int, ...], models: int, itemsize: int) -> int:
    """Bytes that these work with at most: all matrices in float64, and a dozen of the parameters' size."""
    size, squares = 1, sum(side * side for side in shape) if len(shape) <= 2 else 0
    for side in shape:
        size *= side
    return 8 * ((2 * models + 12) * size + (models + 2) * squares)
