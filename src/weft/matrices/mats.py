"""MaTS: the parameters nearest to all models, distances being measured in every model's own subspace of its task.

All solve (sum w C_i) theta = sum w C_i theta_i by conjugate gradients, in float64. They differ in C. Wherever the sum
of the C_i is of the kind of one of them, it is formed once: a step then costs the same for any number of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from weft.matrices.deltas import summed, with_weight
from weft.matrices.regmean import shrunk, upright

Measure = Callable[[str, float], None]
Operator = Callable[[Tensor], Tensor]
Sides = tuple[int, ...]

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
    models = _weighted(tuned, weight)
    mass = sum(w for w, _ in models)
    right = summed([w * model for w, model in models])
    return _merged(models, lambda x: mass * x, right, origin, iterations, tolerance, measure)


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
    models = _weighted(tuned, weight)
    diagonals = [w * f.double() for w, f in _weighted(fisher, weight)]
    right = summed([diagonal * model for diagonal, (_, model) in zip(diagonals, models, strict=True)])
    total = summed(diagonals)
    return _merged(models, lambda x: total * x, right, origin, iterations, tolerance, measure)


def mats_gram(
    tuned: tuple[Tensor | None, ...],
    gram: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    off_diagonal: float,
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    name: str,
    transposed: Callable[[str], bool],
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
        name: of the tensor.
        transposed: from a name to whether such tensors are inputs x outputs.
        measure: hears the residual.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> g, h = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> how = {"origin": None, "iterations": 100, "tolerance": 1e-10, "name": "w", "transposed": lambda name: False}
        >>> merged = mats_gram((a, b), (g, h), (1.0, 1.0), 1.0, **how, measure=lambda name, value: None)
        >>> [round(x, 6) for x in merged[0].tolist()]
        [1.5, 2.0]
    """
    turned = transposed(name)
    models = [(w, upright(model, turned)) for w, model in _weighted(tuned, weight)]
    grams = [w * shrunk(g, off_diagonal) for w, g in _weighted(gram, weight)]
    right = summed([model @ g for g, (_, model) in zip(grams, models, strict=True)])
    total = summed(grams)
    start = origin if origin is None else upright(origin, turned)
    return upright(_merged(models, lambda x: x @ total, right, start, iterations, tolerance, measure), turned)


def mats_kfac(
    tuned: tuple[Tensor | None, ...],
    gram: tuple[Tensor | None, ...],
    gradients: tuple[Tensor | None, ...],
    weight: tuple[float, ...],
    off_diagonal: float,
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    name: str,
    transposed: Callable[[str], bool],
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
        name: of the tensor.
        transposed: from a name to whether such tensors are inputs x outputs.
        measure: hears the residual.
    """
    turned = transposed(name)
    models = [(w, upright(model, turned)) for w, model in _weighted(tuned, weight)]
    inputs = [shrunk(g, off_diagonal) for _, g in _weighted(gram, weight)]
    outputs = [w * shrunk(g, off_diagonal) for w, g in _weighted(gradients, weight)]
    sides = list(zip(outputs, inputs, strict=True))
    right = summed([left @ model @ g for (left, g), (_, model) in zip(sides, models, strict=True)])
    start = origin if origin is None else upright(origin, turned)

    def together(x: Tensor) -> Tensor:
        return summed([left @ x @ g for left, g in sides])

    return upright(_merged(models, together, right, start, iterations, tolerance, measure), turned)


def _weighted(tensors: Sequence[Tensor | None], weight: Sequence[float]) -> list[tuple[float, Tensor]]:
    """The weights that are not zero, and the tensors of their models in float64."""
    weights = [w for w in weight if w != 0.0]
    return [(w, t.double()) for w, t in zip(weights, with_weight(tensors, weight), strict=True)]


def _merged(
    models: Sequence[tuple[float, Tensor]],
    together: Operator,
    right: Tensor,
    origin: Tensor | None,
    iterations: int,
    tolerance: float,
    measure: Measure,
) -> Tensor:
    mass = sum(w for w, _ in models)
    start = summed([w / mass * model for w, model in models]) if origin is None else origin.double()
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


def mats_bytes(shape: tuple[int, ...], models: int, itemsize: int, sides: Callable[[tuple[int, ...]], Sides]) -> int:
    """Bytes that these work with at most: all matrices in float64, and a dozen of the parameters' size.

    Args:
        shape: of the tensor.
        models: how many there are.
        itemsize: of a number of theirs, which does not matter.
        sides: from the shape to the sides of the square matrices that C is made of in each model.

    Example:
        >>> mats_bytes((4, 3), 2, 4, sides=lambda shape: shape[-1:]) == 8 * (16 * 12 + 4 * 9)
        True
    """
    squares = sum(side * side for side in sides(shape))
    return 8 * ((2 * models + 12) * prod(shape) + (models + 2) * squares)
