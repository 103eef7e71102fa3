"""The Karcher mean: of all directions the one from which the arcs to the models cancel out."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import ClassVar, Literal, final

from pydantic import model_validator

from weft.algorithms.gram import Matrix, combination, cosine, mean_direction
from weft.algorithms.method import Law, Method, NonNegative, PerModel, parameter
from weft.algorithms.program import Number, Program


def karcher_mean(gram: Matrix, numbers: Mapping[str, Number]) -> tuple[float, ...]:
    """The coefficients of some vectors whose combination is their mean in direction and in length.

    Args:
        gram: their inner products.
        numbers: `weight`, one for each.

    Example:
        >>> one, two = karcher_mean([[1.0, 0.0], [0.0, 4.0]], {"weight": (1.0, 1.0)})
        >>> round(one, 4), round(two, 4)  # the direction of (1, 1), the length 1.5
        (1.0607, 0.5303)
    """
    weight = numbers["weight"]
    assert isinstance(weight, tuple)
    lengths = [sqrt(gram[i][i]) for i in range(len(gram))]
    length = sum(w * x for w, x in zip(weight, lengths, strict=True)) / sum(weight)
    present = [i for i, (w, x) in enumerate(zip(weight, lengths, strict=True)) if w > 0.0 and x > 0.0]
    coefficients = [0.0] * len(gram)
    if present:
        cosines = [[1.0 if i == j else cosine(gram, i, j) for j in present] for i in present]
        mass = sum(weight[i] for i in present)
        units = mean_direction(cosines, [weight[i] / mass for i in present])
        for i, unit in zip(present, units, strict=True):
            coefficients[i] = length * unit / lengths[i]
    return tuple(coefficients)


@final
class Karcher(Method):
    r"""Average the models' directions on the sphere, and their lengths as numbers.

    With u the models divided by their lengths, the mean direction m is the point of the sphere whose weighted squared
    distances along great arcs to all u are least (the Riemannian centre of mass).

    .. math::
        \theta = \bar{r} \, m, \qquad m = \arg\min_{\lVert m \rVert = 1} \sum_i w_i \arccos^2 \langle m, u_i \rangle,
        \qquad \bar{r} = \frac{\sum_i w_i \lVert \theta_i \rVert}{\sum_i w_i}

    The iteration runs until a step is shorter than 1e-14 radians, and needs only the inner products of the models, so
    that it costs nothing beside reading them once. For two models of equal weight and length this is slerp at 0.5.

    A vector that is zero, or has no weight, has no direction and no say in m; the length counts those that are zero. m
    is unique where all directions lie in one open half of the sphere. Where the weighted directions cancel out there
    is none; the search then begins at the model of the largest weight (the first of these), and an arc to the exact
    opposite counts as none, so that of two opposite models the first direction is taken.

    The vectors are the tensors, each on its own, or the whole models (`scope: model`); with `of: changes` they are task
    vectors, and the mean is added to the base.

    Source: Karcher 1977, *Riemannian center of mass and mollifier smoothing* (Comm. Pure Appl. Math. 30).

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([2.0, 0.0])}, {"w": np.array([0.0, 2.0])}
        >>> weft.merge([a, b], method="karcher", weight=[2, 1])["w"].round(4)
        array([1.7321, 1.    ])
    """

    name: ClassVar = "karcher"
    title: ClassVar = "mean direction on the sphere, mean length"
    formula: ClassVar = "θ = r m;  m minimises Σ wᵢ arccos²⟨m, θᵢ / ‖θᵢ‖⟩, r = Σ wᵢ ‖θᵢ‖ / Σ wᵢ"
    source: ClassVar = "Karcher 1977, Comm. Pure Appl. Math. 30"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {"of": "changes"}}

    weight: PerModel[NonNegative] = parameter(1.0, "weight of each model")
    of: Literal["models", "changes"] = parameter("models", "average the models, or their task vectors")
    scope: Literal["model", "tensor"] = parameter("tensor", "the direction of each tensor, or of the whole models")

    @model_validator(mode="after")
    def _somebody_counts(self) -> Karcher:
        if not any(self.weight):
            raise ValueError("all weights are 0, so there is nothing to average; give one model a weight")
        return self

    @property
    def wants_base(self) -> bool:
        """Task vectors are differences to a base."""
        return self.of == "changes"

    def program(self) -> Program:
        """Inner products, then the map."""
        return combination(karcher_mean, {"weight": self.weight}, self.of == "changes", self.scope == "model")
