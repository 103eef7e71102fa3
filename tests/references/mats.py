"""MaTS: solve (sum C_m) theta = sum C_m theta_m for the merged parameters, exactly or by CG (arXiv 2312.04339).

A weight has the shape (outputs, inputs); its Fisher block is made of A, the Gram matrix of its inputs, and B, that of
the gradients of its outputs, so that the equation reads sum B_m W A_m = sum B_m W_m A_m. RegMean's objective is B = 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.reference import linear
from tests.references.common import Array, State, add_up, as_float64
from tests.references.regmean import gram, shrunk

Product = Callable[[Array], Array]


@dataclass(frozen=True)
class Blocks:
    """What one model knows of one tensor.

    Attributes:
        inputs: Gram matrix of the inputs of a weight, or the full Fisher of a vector.
        outputs: Gram matrix of the gradients of a weight's outputs; None stands for the identity.
    """

    inputs: Array
    outputs: Array | None = None

    def times(self, tensor: Array) -> Array:
        """The Fisher block applied to a tensor: B W A, or F theta for a vector."""
        if tensor.ndim == 1:
            return self.inputs @ tensor
        across = tensor @ self.inputs
        return across if self.outputs is None else self.outputs @ across

    def matrix(self, outputs: int) -> Array:
        """The Fisher block as a matrix over the flattened weight of so many outputs."""
        left = np.eye(outputs) if self.outputs is None else self.outputs
        return np.kron(left, self.inputs)


def blocks(inputs: State, gradients: State | None, factor: float) -> dict[str, Blocks]:
    """The blocks of one model by module, with everything off the diagonals times a factor."""
    known = as_float64(inputs)
    outputs = as_float64(gradients) if gradients is not None else {}
    return {
        name: Blocks(shrunk(value, factor), shrunk(outputs[name], factor) if name in outputs else None)
        for name, value in known.items()
    }


def right_side(parts: list[Blocks], tensors: list[Array]) -> Array:
    """The sum of C_m theta_m."""
    return add_up(np.stack([part.times(tensor) for part, tensor in zip(parts, tensors)]))


def exact(parts: list[Blocks], tensors: list[Array]) -> Array:
    """The solution of least length, by a dense pseudo-inverse of the whole block."""
    shape = tensors[0].shape
    outputs = shape[0] if len(shape) == 2 else 1
    left = add_up(np.stack([part.matrix(outputs) for part in parts]))
    return np.linalg.lstsq(left, right_side(parts, tensors).reshape(-1), rcond=None)[0].reshape(shape)


def conjugate_gradient(product: Product, right: Array, start: Array, steps: int, rtol: float = 1e-5) -> Array:
    """Plain CG, stopping where the residual is at most rtol times the length of the right side, or after so many steps.

    The residual is that of the recurrence, tested before each step, as scipy's `cg` does with atol 0. A zero right side
    gives zeros.
    """
    goal = rtol * np.linalg.norm(right)
    if goal == 0:
        return np.zeros(right.shape)
    x = start.copy()
    residual = right - product(x)
    direction, before = np.zeros(right.shape), 0.0
    for step in range(steps):
        if np.linalg.norm(residual) <= goal:
            break
        square = float(np.sum(residual * residual))
        direction = residual if step == 0 else residual + (square / before) * direction
        image = product(direction)
        length = square / float(np.sum(direction * image))
        x, residual, before = x + length * direction, residual - length * image, square
    return x


def mats(
    models: list[State],
    inputs: list[State],
    *,
    gradients: list[State] | None = None,
    factor: float = 1.0,
    start: State | None = None,
    steps: int | None = None,
    rtol: float = 1e-5,
) -> State:
    """Merge every tensor that has blocks in their subspace, average all other tensors.

    Args:
        models: the fine-tuned models.
        inputs: for each model the Gram matrix of the inputs of `NAME.weight` by NAME, or the Fisher of a vector NAME.
        gradients: likewise, the Gram matrices of the gradients of the outputs.
        factor: what multiplies the blocks off their diagonals.
        start: where CG starts; None is zero. (The official code starts weights from a `pretrained` start that it does
            not transpose; pass `untransposed(base)` to follow it.)
        steps: limit of CG for each tensor; None solves exactly.
        rtol: where CG stops.

    """
    known = [blocks(inputs[i], gradients[i] if gradients else None, factor) for i in range(len(models))]
    states = [as_float64(model) for model in models]
    result = linear(models, [1.0] * len(models))
    for module in known[0]:
        name = module if module in result else f"{module}.weight"
        parts, tensors = [k[module] for k in known], [state[name] for state in states]
        if steps is None:
            result[name] = exact(parts, tensors)
        else:
            begin = np.zeros(tensors[0].shape) if start is None else np.asarray(start[name], np.float64)
            result[name] = by_steps(parts, tensors, begin, steps, rtol)
    return result


def by_steps(parts: list[Blocks], tensors: list[Array], start: Array, steps: int, rtol: float) -> Array:
    """The same by CG."""

    def product(x: Array) -> Array:
        return add_up(np.stack([part.times(x) for part in parts]))

    return conjugate_gradient(product, right_side(parts, tensors), start, steps, rtol)


def untransposed(base: State) -> State:
    """The official `pretrained` start: the values of a (outputs, inputs) weight read as an (inputs, outputs) one."""
    return {
        name: np.asarray(value).reshape(value.shape[::-1]).T if value.ndim == 2 else np.asarray(value)
        for name, value in base.items()
    }


def diagonal(models: list[State], fishers: list[State], *, start: State, steps: int, rtol: float = 1e-5) -> State:
    """CG with diagonal Fishers, tensor by tensor; tensors without Fisher are averaged."""
    states, known = [as_float64(model) for model in models], [as_float64(fisher) for fisher in fishers]
    result = linear(models, [1.0] * len(models))
    for name in known[0]:
        whole = add_up(np.stack([fisher[name] for fisher in known]))
        right = add_up(np.stack([fisher[name] * state[name] for fisher, state in zip(known, states)]))
        begin = np.asarray(start[name], np.float64)
        result[name] = conjugate_gradient(lambda x, whole=whole: whole * x, right, begin, steps, rtol)
    return result


def floored_fisher(models: list[State], fishers: list[State], *, share: float = 1.0, floor: float = 1e-8) -> State:
    """Diagonal Fisher merging as in MaTS: all Fishers floored, not normalised; two models weigh share, 1 - share."""
    factors = [share, 1 - share] if len(models) == 2 else [1.0] * len(models)
    known = [
        {name: w * np.maximum(value, floor) for name, value in as_float64(fisher).items()}
        for w, fisher in zip(factors, fishers)
    ]
    result: State = {}
    for name in models[0]:
        top = add_up(np.stack([k[name] * as_float64(model)[name] for k, model in zip(known, models)]))
        result[name] = top / add_up(np.stack([k[name] for k in known]))
    return result


def average(models: list[State], *, share: float = 1.0) -> State:
    """The official `average`: two models weigh share, 1 - share; of any other number the mean, times share."""
    if len(models) == 2:
        return linear(models, [share, 1 - share])
    return {name: share * value for name, value in linear(models, [1.0] * len(models)).items()}


def token_gram(tokens: list[Array], masks: list[Array]) -> Array:
    """Gram matrix of the tokens that are not padding, divided by their number."""
    return gram([np.asarray(rows)[np.asarray(mask) != 0] for rows, mask in zip(tokens, masks)])


def vector_fisher(gradients: list[Array]) -> Array:
    """Mean of g g^T."""
    return add_up(np.stack([np.outer(g, g) for g in gradients])) / len(gradients)
