"""RAM: what only one model changed is kept as it is, what several changed is averaged."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Law, Method, NonNegative, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def ram(base: float, tuned: Reals, epsilon: float) -> float:
    """One parameter: the mean of the changes larger than epsilon.

    Example:
        >>> ram(0.0, (3.0, 0.1, 0.0), epsilon=0.5), ram(0.0, (3.0, 1.0, 0.0), epsilon=0.5)
        (3.0, 2.0)
    """
    total = 0.0
    for theta in tuned:
        total += theta - base if has_moved(base, theta, epsilon) else 0.0
    return base + total / max(movers(base, tuned, epsilon), 1.0)


@element
def has_moved(base: float, theta: float, epsilon: float) -> bool:
    """Whether a model changed the parameter by more than epsilon."""
    return abs(theta - base) > epsilon


@element
def movers(base: float, tuned: Reals, epsilon: float) -> float:
    """How many models did."""
    count = 0.0
    for theta in tuned:
        count += 1.0 if has_moved(base, theta, epsilon) else 0.0
    return count


@final
class Ram(Method):
    r"""Average every change over the models that made one, so that what one model alone learned is not diluted.

    .. math::
        \theta = \theta_0 + \frac{1}{|M|} \sum_{i \in M} \delta_i, \qquad M = \{\, i : |\delta_i| > \epsilon \,\}

    Where no model moved a parameter by more than epsilon, it stays as it is in the base.

    Source: Yuan et al. 2026, *Behavior Knowledge Merge in Reinforced Agentic Models* (arXiv 2601.13572), as mergekit
    computes it (`ram`).

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(3)}
        >>> a, b = {"w": np.array([1.0, 3.0, 0.0])}, {"w": np.array([0.0, 1.0, 0.0])}
        >>> weft.merge([a, b], base=base, method="ram")["w"]
        array([1., 2., 0.])
    """

    name: ClassVar = "ram"
    title: ClassVar = "average over the models that moved"
    formula: ClassVar = "θ = θ₀ + mean of the δᵢ with |δᵢ| > ε"
    source: ClassVar = "Yuan et al. 2026, arXiv 2601.13572"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.COPIES: {"epsilon": 0.0}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {"epsilon": 0.0}}

    epsilon: NonNegative = parameter(1e-5, "how far a parameter must move to count as changed")

    def program(self) -> Program:
        """A single map."""
        return Program(ram, values={"epsilon": self.epsilon}, relative=True)
