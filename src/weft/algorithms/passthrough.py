"""Passthrough: one model, as it is or times a factor."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Law, Method, Number, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def passthrough(tuned: Reals, scale: float) -> float:
    """One parameter of the only model, times a factor.

    Example:
        >>> passthrough((3.0,), scale=0.5)
        1.5
    """
    return scale * tuned[0]


@final
class Passthrough(Method):
    r"""Take the only model as it is, or times a factor.

    .. math:: \theta = s \, \theta_1

    With a factor for some tensors alone, in a rule, it switches parts of a model off or makes them weaker, as recipes
    that stack layers do. To copy a tensor from one of several models no method is needed: write `use: NAME` in a rule.

    Source: mergekit (`passthrough`).

    Example:
        >>> import numpy as np, weft
        >>> model = {"mlp.w": np.array([1.0]), "o_proj.w": np.array([2.0])}
        >>> silent = [{"match": "*o_proj*", "parameters": {"scale": 0}}]
        >>> weft.merge([model], method="passthrough", rules=silent)
        {'mlp.w': array([1.]), 'o_proj.w': array([0.])}
    """

    name: ClassVar = "passthrough"
    title: ClassVar = "one model, times a factor"
    formula: ClassVar = "θ = s θ₁"
    source: ClassVar = "mergekit"
    needs_base: ClassVar = False
    models: ClassVar = range(1, 2)
    laws: ClassVar = {Law.COPIES: {}, Law.ZERO_DELTAS: {}}

    scale: Number = parameter(1.0, "factor of the model (s)")

    def program(self) -> Program:
        """A single map."""
        return Program(passthrough, values={"scale": self.scale})
