"""RAM+: as RAM, and what only one model changed is enlarged, the more so the less of it that model has."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Law, Method, NonNegative, parameter
from weft.algorithms.program import Program, Statistic, Total
from weft.algorithms.ram import has_moved, movers
from weft.kernels.element import element


@element
def ram_plus(base: float, tuned: Reals, epsilon: float, alone: Reals, shared: Reals, r: float, alpha: float) -> float:
    """One parameter: the mean of the changes larger than epsilon; that of one model alone enlarged.

    Args:
        base: the value in the base.
        tuned: the value in each model.
        epsilon: what a model must have moved it by to count.
        alone: how many parameters of the scope each model moved that no other did.
        shared: how many it moved together with others.
        r: how much a unique change is enlarged for each unit of shared / alone.
        alpha: largest shared / alone that counts.

    Example:
        >>> ram_plus(0.0, (3.0, 0.0), 0.5, alone=(10.0, 2.0), shared=(1.0, 1.0), r=1.0, alpha=0.5).__round__(9)
        3.3
    """
    total = 0.0
    single = 0.0
    for theta, a, s in zip(tuned, alone, shared):
        delta = theta - base if has_moved(base, theta, epsilon) else 0.0
        total += delta
        single += delta * (1.0 + r * min(s / max(a, 1.0), alpha))
    count = movers(base, tuned, epsilon)
    return base + (single if count == 1.0 else total / max(count, 1.0))


@element
def moved_alone(base: float, tuned: Reals, own: float, epsilon: float) -> float:
    """1 where this model moved the parameter and no other did."""
    return 1.0 if mine_moved(base, tuned, own, epsilon) and movers(base, tuned, epsilon) == 1.0 else 0.0


@element
def moved_with_others(base: float, tuned: Reals, own: float, epsilon: float) -> float:
    """1 where this model moved the parameter and another did too."""
    return 1.0 if mine_moved(base, tuned, own, epsilon) and movers(base, tuned, epsilon) > 1.0 else 0.0


@element
def mine_moved(base: float, tuned: Reals, own: float, epsilon: float) -> bool:
    """Whether the model at this position moved the parameter."""
    moved = False
    for i, theta in enumerate(tuned):
        moved = has_moved(base, theta, epsilon) if i == own else moved
    return moved


def _count(total: float, count: int) -> float:
    return total


_STATISTICS = (
    Statistic("alone", moved_alone, Total(_count), each=True, among=True),
    Statistic("shared", moved_with_others, Total(_count), each=True, among=True),
)


@final
class RamPlus(Method):
    r"""Average changes over the models that made them, and enlarge those that one model alone made.

    Of each model i, rho_i is how many parameters it moved together with others, divided by how many it moved alone.

    .. math::
        \theta = \theta_0 + \begin{cases}
            \bigl(1 + r \min(\rho_i, \alpha)\bigr) \delta_i & M = \{i\} \\
            \frac{1}{|M|} \sum_{i \in M} \delta_i & |M| > 1
        \end{cases}, \qquad M = \{\, i : |\delta_i| > \epsilon \,\}

    rho is counted over the whole model, or with `scope: tensor` in every tensor, as mergekit does (`ramplus_tl`). A
    model that moved nothing alone has nothing to enlarge. Where nobody moved a parameter it stays as it is in the base.

    Source: Yuan et al. 2026, *Behavior Knowledge Merge in Reinforced Agentic Models* (arXiv 2601.13572).

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(3)}
        >>> a, b = {"w": np.array([1.0, 3.0, 0.0])}, {"w": np.array([0.0, 1.0, 2.0])}
        >>> weft.merge([a, b], base=base, method="ram+", r=0.5, alpha=1)["w"]
        array([1.5, 2. , 3. ])
    """

    name: ClassVar = "ram+"
    title: ClassVar = "RAM with unique changes enlarged"
    formula: ClassVar = "θ = θ₀ + mean of the δᵢ with |δᵢ| > ε; times 1 + r min(ρᵢ, alpha) if there is but one"
    source: ClassVar = "Yuan et al. 2026, arXiv 2601.13572"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.COPIES: {"epsilon": 0.0}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {"epsilon": 0.0}}

    epsilon: NonNegative = parameter(1e-5, "how far a parameter must move to count as changed")
    r: NonNegative = parameter(0.1, "how much a unique change is enlarged for each unit of rho")
    alpha: NonNegative = parameter(0.2, "largest rho that counts")
    scope: Literal["model", "tensor"] = parameter("model", "count over the whole model, or tensor by tensor")

    def program(self) -> Program:
        """Two counts for each model, then the map."""
        return Program(
            ram_plus,
            statistics=_STATISTICS,
            values={"epsilon": self.epsilon, "r": self.r, "alpha": self.alpha},
            whole_model=self.scope == "model",
            relative=True,
        )
