"""Task arithmetic: add and subtract what fine-tuning changed."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.method import Law, Method, Number, PerModel, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def task_arithmetic(base: float, tuned: tuple[float, ...], weight: tuple[float, ...], scale: float) -> float:
    """One parameter: the base plus the scaled sum of the weighted task vectors.

    Example:
        >>> task_arithmetic(1.0, (2.0, 4.0), weight=(1.0, -1.0), scale=0.5)
        0.0
    """
    total = 0.0
    for theta, w in zip(tuned, weight):
        total += w * (theta - base)
    return base + scale * total


@final
class TaskArithmetic(Method):
    r"""Add the models' task vectors to the base.

    .. math:: \theta = \theta_0 + \lambda \sum_i w_i (\theta_i - \theta_0)

    A negative weight subtracts what a model learned. lambda is `scale`; 0.4 is the value that the literature
    uses when there is no data to tune it on.

    Source: Ilharco et al. 2023, *Editing models with task arithmetic* (arXiv 2212.04089), section 2.

    Example:
        >>> import numpy as np, weft
        >>> base, skill = {"w": np.array([1.0])}, {"w": np.array([3.0])}
        >>> weft.merge([skill], base=base, method="task_arithmetic", weight=-1, scale=1)["w"]
        array([-1.])
    """

    name: ClassVar = "task_arithmetic"
    title: ClassVar = "sum of task vectors"
    formula: ClassVar = "θ = θ₀ + λ Σ wᵢ (θᵢ - θ₀)"
    source: ClassVar = "Ilharco et al. 2023, arXiv 2212.04089"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    weight: PerModel[Number] = parameter(1.0, "factor of each task vector; negative subtracts a skill")
    scale: Number = parameter(0.4, "factor of the sum of task vectors (lambda)")

    def program(self) -> Program:
        """A single map."""
        return Program(task_arithmetic, values={"weight": self.weight, "scale": self.scale}, relative=True)
