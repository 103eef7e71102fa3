"""Weighted averaging of models: the uniform and the weighted soup."""

from __future__ import annotations

from math import fsum
from typing import ClassVar, final

from pydantic import model_validator

from weft.algorithms.method import Law, Method, Number, PerModel, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def weighted_average(tuned: tuple[float, ...], weight: tuple[float, ...], mass: float) -> float:
    """One parameter: the weighted sum of the models' values, divided by the mass of the weights.

    Example:
        >>> weighted_average((1.0, 3.0), weight=(1.0, 3.0), mass=4.0)
        2.5
    """
    total = 0.0
    for theta, w in zip(tuned, weight):
        total += w * theta
    return total / mass


@final
class Linear(Method):
    r"""Average the models' weights.

    .. math:: \theta = \frac{\sum_i w_i \theta_i}{\sum_i w_i}

    With the defaults this is the uniform soup. Without `normalize` it is the plain weighted sum. A base, if one is
    given, is not averaged in; it lends its number formats, its config and its tokenizer.

    Source: Wortsman et al. 2022, *Model soups* (arXiv 2203.05482), section 3.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([0.0, 2.0])}, {"w": np.array([4.0, 2.0])}
        >>> weft.merge([a, b], method="linear", weight=[3, 1])["w"]
        array([1., 2.])
    """

    name: ClassVar = "linear"
    title: ClassVar = "weighted average"
    formula: ClassVar = "θ = Σ wᵢ θᵢ / Σ wᵢ"
    source: ClassVar = "Wortsman et al. 2022, arXiv 2203.05482"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    weight: PerModel[Number] = parameter(1.0, "the share of each model")
    normalize: bool = parameter(True, "divide by the sum of the weights")

    @model_validator(mode="after")
    def _weights_sum_to_something(self) -> Linear:
        if self.normalize and abs(fsum(self.weight)) <= 1e-6 * fsum(map(abs, self.weight)):
            raise ValueError(
                "the weights sum to 0, so their average does not exist; set normalize: false for a plain sum"
            )
        return self

    def program(self) -> Program:
        """A single map."""
        mass = fsum(self.weight) if self.normalize else 1.0
        return Program(weighted_average, values={"weight": self.weight, "mass": mass}, relative=self.normalize)
