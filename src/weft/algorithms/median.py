"""The median of the models, parameter by parameter."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from weft.algorithms.elections import Reals, count_at_most
from weft.algorithms.method import Law, Method, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def median(tuned: Reals, upper: float) -> float:
    """One parameter: the middle value, or of two middle ones the lower, and so much of the way to the upper.

    Example:
        >>> median((5.0, 1.0, 2.0), upper=0.5), median((5.0, 1.0), upper=0.5), median((5.0, 1.0), upper=0.0)
        (2.0, 3.0, 1.0)
    """
    lower = in_order(tuned, (len(tuned) - 1.0) // 2.0)
    return lower + upper * (in_order(tuned, len(tuned) // 2.0) - lower)


@element
def in_order(tuned: Reals, place: float) -> float:
    """The value that has a place (from 0.0) in increasing order: the smallest that more than so many do not exceed."""
    found = tuned[0]
    for theta in tuned:
        found = max(found, theta)
    for theta in tuned:
        found = min(found, theta) if count_at_most(tuned, theta) > place else found
    return found


@final
class Median(Method):
    r"""Take of every parameter the median of the models, which no single model can pull away.

    .. math:: \theta = \operatorname{median}(\theta_1, \dots, \theta_n)

    Of an even number of models, the mean of the middle two, or with `middle: lower` the lower of them, which is a value
    that some model has.

    Source: Yin et al. 2018, *Byzantine-Robust Distributed Learning* (arXiv 1803.01498), section 4, on gradients.

    Example:
        >>> import numpy as np, weft
        >>> a, b, c = ({"w": np.array([x, -x])} for x in (1.0, 2.0, 9.0))
        >>> weft.merge([a, b, c], method="median")["w"]
        array([ 2., -2.])
    """

    name: ClassVar = "median"
    title: ClassVar = "median of the models"
    formula: ClassVar = "θ = median of θ₁ … θₙ"
    source: ClassVar = "Yin et al. 2018, arXiv 1803.01498"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    middle: Literal["mean", "lower"] = parameter("mean", "what is taken of two middle values")

    def program(self) -> Program:
        """A single map."""
        return Program(median, values={"upper": 0.5 if self.middle == "mean" else 0.0}, relative=True)
