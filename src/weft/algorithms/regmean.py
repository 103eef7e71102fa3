"""RegMean: the linear layers whose outputs are nearest to every model's on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import fsum
from typing import Annotated, Any, ClassVar, final

from pydantic import model_validator

from weft.algorithms.linear import weighted_average
from weft.algorithms.method import Fraction, Law, Method, NonNegative, PerModel, Tensors, of_model, parameter
from weft.algorithms.program import Program
from weft.algorithms.whole import Beside, Shape, Whole, computing_with_torch, is_matrix, is_named

TRANSPOSED = "of a GPT-2, whose layers keep inputs x outputs, name them in `transposed`; else it is of another model"
"""What to do about a Gram matrix of another shape."""


def gram_of_inputs(name: str, shape: Shape, transposed: Sequence[str]) -> Shape:
    """The shape of the Gram matrix of the inputs of a layer.

    Example:
        >>> gram_of_inputs("w", (3, 5), []), gram_of_inputs("w", (3, 5), ["w"]), gram_of_inputs("w", (5,), [])
        ((5, 5), (3, 3), (5, 5))
    """
    side = shape[0] if is_named(name, transposed) else shape[-1]
    return (side, side)


def largest_inputs(shape: Shape, transposed: Sequence[str]) -> Shape:
    """The side of the Gram matrix of a layer's inputs, whatever its name is: if some are transposed, it may be either.

    Example:
        >>> largest_inputs((3072, 768), []), largest_inputs((3072, 768), ["*.c_proj.weight"])
        ((768,), (3072,))
    """
    return (max(shape),) if transposed else shape[-1:]


@final
class RegMean(Method):
    r"""Solve, for each linear layer, for the weights that are nearest to every model's on the inputs it sees.

    G_i is the Gram matrix of the layer's inputs in model i, the mean of x x' over tokens, with `off_diagonal` times
    what is off its diagonal.

    .. math::
        W = \Bigl( \sum_i w_i W_i G_i \Bigr) \Bigl( \sum_i w_i G_i \Bigr)^{-1}

    A Gram matrix goes by the name of its layer's weight (outputs x inputs) and is inputs x inputs. Tensors without one
    are averaged, and so are, with a warning, those that only some models have one for. Computed in float64. Layers that
    keep their weights as inputs x outputs (GPT-2's Conv1D) must be named by `transposed`.

    Where the data of no model move some inputs, or some mixtures of them, the sum has no inverse; the official codes
    stop, or set the weights of such inputs to zero. Here these directions are averaged, and it is told how many tensors
    have them.

    Source: Jin et al. 2023, *Dataless Knowledge Fusion by Merging Weights of Language Models* (arXiv 2212.09849),
    section 3, and the official code, whose experiments mostly shrink by 0.9 (0.1 for DeBERTa).

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([[1.0, 0.0]])}, {"w": np.array([[3.0, 4.0]])}
        >>> g, h = {"w": np.array([[3.0, 0.0], [0.0, 1.0]])}, {"w": np.eye(2)}
        >>> weft.merge([a, b], method="regmean", gram=[g, h])["w"]
        array([[1.5, 2. ]])
    """

    name: ClassVar = "regmean"
    title: ClassVar = "regression on every model's layer inputs"
    formula: ClassVar = "θ = Σ wᵢ θᵢ Gᵢ (Σ wᵢ Gᵢ)⁻¹"
    source: ClassVar = "Jin et al. 2023, arXiv 2212.09849"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    gram: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "the Gram matrices of the inputs of the model's layers: a file of tensors"
    )
    weight: PerModel[NonNegative] = parameter(1.0, "factor of each model")
    off_diagonal: Fraction = parameter(0.9, "factor of the Gram matrices off their diagonals")

    transposed: tuple[str, ...] = parameter((), "patterns of weights that are stored as inputs x outputs")

    @model_validator(mode="after")
    def _everybody_who_counts_has_a_gram(self) -> RegMean:
        if not any(self.weight):
            raise ValueError("all weights are 0, so there is nothing to average; give one model a weight")
        lacking = [i for i, (w, g) in enumerate(zip(self.weight, self.gram)) if w and g is None]
        if lacking:
            raise of_model(lacking[0], "has no `gram`; measure it with `weft gram`")
        return self

    def program(self) -> Program:
        """Matrices with a Gram matrix whole; the weighted average for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices.regmean import regmean, regmean_bytes
        options = {"off_diagonal": self.off_diagonal, "transposed": partial(is_named, patterns=self.transposed)}
        sides = partial(largest_inputs, transposed=self.transposed)
        return Program(
            weighted_average,
            values={"weight": self.weight, "mass": fsum(self.weight)},
            auxiliary={"gram": tuple(g if w else None for g, w in zip(self.gram, self.weight))},
            relative=True,
            whole=Whole(regmean, is_matrix, partial(regmean_bytes, sides=sides), options),
            beside={"gram": Beside(shape=partial(gram_of_inputs, transposed=self.transposed), hint=TRANSPOSED)},
        )
