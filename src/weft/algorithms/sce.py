"""SCE: select where the models differ most, weigh models by their energy, erase minority signs."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Fraction, Law, Method, NonNegative, parameter
from weft.algorithms.program import Program, Rank, Statistic, Total
from weft.kernels.element import element


@element
def sce(base: float, tuned: Reals, threshold: float, select: float, energy: Reals, least: float) -> float:
    """One parameter: the mean of the changes that have the sign of their sum, each model weighted by its energy.

    Args:
        base: the value in the base.
        tuned: the value in each model.
        threshold: smallest variance over the models that is selected.
        select: share of the varying parameters that is selected; 1 selects all, varying or not.
        energy: mean square of each model's selected changes.
        least: below this sum of energies all models weigh the same.

    Example:
        >>> sce(0.0, (3.0, 1.0, -1.0), threshold=0.0, select=1.0, energy=(2.0, 2.0, 0.0), least=0.0)
        2.0
    """
    total = 0.0
    every = 0.0
    for theta, e in zip(tuned, energy):
        total += theta - base
        every += e
    even = every < least or every == 0.0
    change = 0.0
    mass = 0.0
    for theta, e in zip(tuned, energy):
        delta = theta - base
        agrees = delta > 0.0 if total >= 0.0 else delta < 0.0
        w = (1.0 if even else e / every) if agrees else 0.0
        change += w * delta
        mass += w
    chosen = is_selected(variance(base, tuned), threshold, select)
    return base + (change / mass if chosen and mass > 0.0 else 0.0)


@element
def variance(base: float, tuned: Reals) -> float:
    """How much the models differ in one parameter: the mean squared distance to the mean."""
    mean = 0.0
    for theta in tuned:
        mean += (theta - base) / len(tuned)
    total = 0.0
    for theta in tuned:
        total += (theta - base - mean) * (theta - base - mean)
    return total / len(tuned)


@element
def spread(base: float, tuned: Reals) -> float:
    """The variance by which parameters are put in order: 0 where it is not a number, since that varies nowhere."""
    v = variance(base, tuned)
    return v if v > 0.0 else 0.0


@element
def is_selected(variance: float, threshold: float, select: float) -> bool:
    """Whether a parameter of this variance takes part."""
    return select >= 1.0 or (variance >= threshold and variance > 0.0 and threshold > 0.0)


@element
def varies(base: float, tuned: Reals) -> float:
    """1 where the models differ at all."""
    return 1.0 if variance(base, tuned) > 0.0 else 0.0


@element
def selected_square(base: float, tuned: Reals, own: float, threshold: float, select: float) -> float:
    """One model's change squared, if the parameter is selected."""
    mine = 0.0
    for i, theta in enumerate(tuned):
        mine = theta - base if i == own else mine
    return mine * mine if is_selected(variance(base, tuned), threshold, select) else 0.0


def _selected(varying: float, count: int, select: float) -> float:
    return float(int(select * varying)) if select < 1.0 else 0.0


def _rank(count: int, selected: float) -> int:
    return count - int(selected) + 1 if selected else 0


def _mean(total: float, count: int) -> float:
    return total / count


@final
class Sce(Method):
    r"""Select the parameters in which the models differ most, and average them, weighing models by their energy.

    **Select**: of the c parameters whose variance over the models is not 0, the int(`select` * c) of the largest
    variance, and those tied with the last of them; all other changes count as 0. With `select: 1` all are selected.
    **Calculate**: a model's weight is the mean square of its selected changes. **Erase**: of each parameter only the
    changes count that have the sign of the (unweighted) sum; a sum of 0 is positive.

    .. math::
        \theta = \theta_0 + \frac{\sum_{i \in A} e_i \delta_i}{\sum_{i \in A} e_i}, \qquad
        e_i = \operatorname{mean}(\delta_i^2), \qquad
        A = \{\, i : \operatorname{sgn} \delta_i = \operatorname{sgn} \textstyle\sum_k \delta_k \,\}

    Where nothing changed the base stays. In mergekit all models weigh the same where the energies sum to less than
    1e-6, which most fine-tunes of language models do; `least: 1e-6` asks for that, and 0 for the paper.

    Source: Wan et al. 2024, *FuseChat: Knowledge Fusion of Chat Models* (arXiv 2408.07990), section 3.3.

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(2)}
        >>> a, b = {"w": np.array([3.0, 1.0])}, {"w": np.array([1.0, -2.0])}
        >>> weft.merge([a, b], base=base, method="sce")["w"].round(3)
        array([ 2.333, -2.   ])
    """

    name: ClassVar = "sce"
    title: ClassVar = "select by variance, weigh by energy"
    formula: ClassVar = "θ = θ₀ + Σ eᵢ δᵢ / Σ eᵢ over the models with the sign of Σ δₖ;  eᵢ = mean δᵢ²"
    source: ClassVar = "Wan et al. 2024, arXiv 2408.07990"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    select: Fraction = parameter(1.0, "share of the parameters in which the models differ that is selected")
    least: NonNegative = parameter(0.0, "below this sum of mean squared changes all models weigh the same")
    scope: Literal["model", "tensor"] = parameter(
        "tensor", "select and weigh tensor by tensor, or over the whole model"
    )

    def program(self) -> Program:
        """How many parameters are selected, from which variance on, the energy of what is, then the map."""
        search = (
            Statistic("selected", varies, Total(_selected, by="select")),
            Statistic("threshold", spread, Rank(_rank, by="selected")),
        )
        # whoever compares a variance with the threshold does it in the precision of the map, or they select differently
        everything = self.select >= 1.0
        energy = Statistic("energy", selected_square, Total(_mean), each=True, among=True, double=everything)
        return Program(
            sce,
            statistics=(*(search if self.select < 1.0 else ()), energy),
            values={"select": self.select, "least": self.least, "threshold": 0.0},
            whole_model=self.scope == "model",
            relative=True,
        )
