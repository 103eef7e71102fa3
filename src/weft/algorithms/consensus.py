"""Consensus merging: what matters to fewer than k of the models is left out of the merged task vector."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Count, Law, Method, NonNegative, Number, PerModel, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def consensus(base: float, tuned: Reals, weight: Reals, share: Reals, agree: float, scale: float) -> float:
    """One parameter: the sum of the changes, if it matters to enough models.

    Args:
        base: the value in the base.
        tuned: the value in each model.
        weight: factor of each task vector.
        share: to a model matters what it changed by at least this share of its distance to the merged change.
        agree: to how many models it must matter.
        scale: factor of the merged change.

    Example:
        >>> consensus(0.0, (3.0, 1.0), weight=(1.0, 1.0), share=(0.5, 0.5), agree=2.0, scale=1.0)
        0.0
        >>> consensus(0.0, (3.0, 1.0), weight=(1.0, 1.0), share=(0.5, 0.2), agree=2.0, scale=1.0)
        4.0
    """
    merged = 0.0
    for theta, w in zip(tuned, weight):
        merged += w * (theta - base)
    votes = 0.0
    for theta, limit in zip(tuned, share):
        votes += 1.0 if abs(theta - base) >= limit * abs(merged - (theta - base)) else 0.0
    return base + scale * merged if votes >= agree else base


@final
class Consensus(Method):
    r"""Add the models' task vectors to the base, but only where they matter to several models.

    To a model matters (its *TALL mask*) what it changed by no less than a share of what separates its change from the
    merged change. What matters to fewer than k models is selfish or useless, and is left as it was in the base.

    .. math::
        \tau = \sum_i w_i \delta_i, \qquad
        m_i = \bigl[\, |\delta_i| \ge \lambda_i |\tau - \delta_i| \,\bigr], \qquad
        \theta = \theta_0 + \lambda \tau \cdot \bigl[\, \textstyle\sum_i m_i \ge k \,\bigr]

    The masks are made with the merged task vector before `scale`. With `agree: 0` this is task arithmetic. The paper
    chooses lambda_i (`share`) for each task from 0.2, 0.3, ... 0.6, by validation.

    Source: Wang et al. 2024, *Localizing Task Information for Improved Model Merging and Compression* (arXiv
    2405.10383), sections 4 and 5.

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(3)}
        >>> a, b = {"w": np.array([1.0, 5.0, 0.0])}, {"w": np.array([2.0, 0.0, 0.0])}
        >>> weft.merge([a, b], base=base, method="consensus", scale=1)["w"]
        array([3., 0., 0.])
    """

    name: ClassVar = "consensus"
    title: ClassVar = "sum of what matters to several models"
    formula: ClassVar = "θ = θ₀ + λ Σ wᵢ δᵢ where at least k models have |δᵢ| ≥ λᵢ |Σ wₖ δₖ - δᵢ|, else θ₀"
    source: ClassVar = "Wang et al. 2024, arXiv 2405.10383"
    needs_base: ClassVar = True
    laws: ClassVar = {
        Law.COPIES: {"weight": [0.5, 0.25, 0.25], "scale": 1.0},
        Law.ORDER: {},
        Law.ZERO_DELTAS: {},
        Law.SCALING: {},
    }

    share: PerModel[NonNegative] = parameter(
        0.4, "how much of its distance to the merged change a model's change must be to matter to it (lambda of a mask)"
    )
    agree: Count = parameter(2, "to how many models a parameter must matter (k)")
    weight: PerModel[Number] = parameter(1.0, "factor of each task vector")
    scale: Number = parameter(0.4, "factor of the merged task vector (lambda)")

    def program(self) -> Program:
        """A single map."""
        values: dict[str, float | tuple[float, ...]] = {
            "weight": self.weight,
            "share": self.share,
            "agree": float(self.agree),
            "scale": self.scale,
        }
        return Program(consensus, values=values, relative=True)
