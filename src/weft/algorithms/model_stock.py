"""Model Stock: how far to go from the base to the mean of several fine-tunes follows from the angle between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from math import acos, cos
from typing import ClassVar, Literal, final

from weft.algorithms.elections import Reals
from weft.algorithms.gram import Matrix, combination, cosine
from weft.algorithms.method import Law, Method, parameter
from weft.algorithms.program import Number, Program
from weft.algorithms.whole import Shape, Whole, computing_with_torch
from weft.kernels.element import element

Average = Literal["angle", "cosine"]


@element
def mean(base: float, tuned: Reals) -> float:
    """One parameter: the base plus the mean of the changes, where there is no angle to go by.

    Example:
        >>> mean(1.0, (2.0, 4.0))
        3.0
    """
    total = 0.0
    for theta in tuned:
        total += theta - base
    return base + total / len(tuned)


def stock(gram: Matrix, numbers: Mapping[str, Number], average: Average, clamp: bool) -> tuple[float, ...]:
    """For each model the same coefficient: t divided by the number of models.

    Args:
        gram: inner products of the task vectors.
        numbers: not needed.
        average: what is averaged over the pairs of models.
        clamp: whether t is kept between 0 and 1.

    Example:
        >>> stock([[1.0, 0.5], [0.5, 1.0]], {}, "cosine", False)
        (0.3333333333333333, 0.3333333333333333)
    """
    count = len(gram)
    t = ratio([cosine(gram, i, j) for i, j in combinations(range(count), 2)], count, average, clamp)
    return (t / count,) * count


def ratio(cosines: list[float], count: int, average: Average, clamp: bool) -> float:
    """How much of the way from the base to the mean of the models.

    Args:
        cosines: of all pairs of task vectors.
        count: number of models.
        average: as in `stock`.
        clamp: as in `stock`.
    """
    by_angle = average == "angle" and len(cosines) > 1
    together = cos(sum(map(acos, cosines)) / len(cosines)) if by_angle else sum(cosines) / len(cosines)
    bottom = 1.0 + (count - 1) * together
    t = count * together / bottom if abs(bottom) >= 1e-6 else 0.0
    return min(max(t, 0.0), 1.0) if clamp else t


def _has_parameters(shape: Shape) -> bool:
    return 0 not in shape


@final
class ModelStock(Method):
    r"""Go from the base towards the mean of several fine-tunes of one task, as far as they agree.

    With phi the angle between the task vectors of two of n models:

    .. math::
        \theta = \theta_0 + t \, \frac{1}{n} \sum_i \delta_i, \qquad
        t = \frac{n \cos \varphi}{1 + (n - 1) \cos \varphi}

    Of more than two models, the mean of all pairs' angles is taken (`average: angle`, as FusionBench does) or of their
    cosines (`cosine`, as mergekit does); the authors published no code. The angle is that of each tensor, taken as one
    vector; with `scope: row` of each row along the last dimension (mergekit's `filter_wise`), with `scope: model` of
    the whole models. With `scope: row` a tensor that holds values which are not finite, where they are no error, has
    the mean of its task vectors (t = 1).

    A task vector that is zero is at right angles to all. t leaves [0, 1] where the task vectors point away from each
    other, unless `clamp`. Where the denominator is nearly 0, less than 1e-6 in size, the base stays. Both programs
    guard the division by a small constant (1e-8, 1e-6), which shortens short task vectors; here there is none.

    Meant for fine-tunes of the same task: those of different tasks are nearly at right angles, and t is nearly 0.

    Source: Jang et al. 2024, *Model Stock: All we need is just a few fine-tuned models* (arXiv 2403.19522), section 4.

    Example:
        >>> import numpy as np, weft
        >>> base, a, b = ({"w": np.array(x)} for x in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]))
        >>> weft.merge([a, b], base=base, method="model_stock")["w"].round(4)
        array([0.8284, 0.4142])
    """

    name: ClassVar = "model_stock"
    title: ClassVar = "towards the mean, as far as models agree"
    formula: ClassVar = "θ = θ₀ + t mean δᵢ;  t = n cos φ / (1 + (n - 1) cos φ), φ the angle between the δᵢ"
    source: ClassVar = "Jang et al. 2024, arXiv 2403.19522"
    needs_base: ClassVar = True
    models: ClassVar = range(2, 1 << 16)
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    average: Average = parameter("angle", "what is averaged over the pairs of models")
    scope: Literal["model", "tensor", "row"] = parameter("tensor", "the angle of each tensor, row, or the whole models")
    clamp: bool = parameter(False, "keep t between 0 and 1")

    def program(self) -> Program:
        """Inner products, then the map; rows are seen whole."""
        if self.scope == "row":
            return self._by_row()
        coefficients: Callable[..., tuple[float, ...]] = partial(stock, average=self.average, clamp=self.clamp)
        return combination(coefficients, {}, of_changes=True, whole_model=self.scope == "model")

    def _by_row(self) -> Program:
        with computing_with_torch(self.name):
            from weft.matrices.model_stock import model_stock, model_stock_bytes
        options = {"average": self.average, "clamp": self.clamp}
        whole = Whole(model_stock, _has_parameters, model_stock_bytes, options)
        return Program(mean, relative=True, whole=whole)
