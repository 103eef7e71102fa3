"""DARE: drop most of each task vector at random, and rescale what is left."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, final

from weft.algorithms.method import Fraction, Integer, Law, PerModel, Tensors, parameter
from weft.algorithms.program import Change, Derived, Rank, Statistic
from weft.algorithms.rescaling import keeping_l1, magnitude
from weft.algorithms.sparsifier import Sparsifier
from weft.kernels.element import Scalar, element


@element
def dare(base: float, tuned: float, draw: float, drop: float, factor: float) -> float:
    """One model's change of one parameter: nothing with probability `drop`, else what makes up for it.

    Example:
        >>> dare(1.0, 3.0, draw=0.7, drop=0.5, factor=2.0), dare(1.0, 3.0, draw=0.2, drop=0.5, factor=2.0)
        (4.0, 0.0)
    """
    return (tuned - base) * factor if draw >= drop else 0.0


@element
def dare_masked(base: float, tuned: float, mask: float, factor: float) -> float:
    """The same where it is given what is kept."""
    return (tuned - base) * factor if mask != 0.0 else 0.0


@element
def dare_magnitude(base: float, tuned: float, threshold: float, factor: float) -> float:
    """The same where the smallest changes of the tensor are dropped, those up to the threshold."""
    return (tuned - base) * factor if abs(tuned - base) > threshold else 0.0


@element
def drawn_length(base: float, tuned: float, draw: float, drop: float) -> float:
    """The magnitude of what is kept."""
    return abs(dare(base, tuned, draw, drop, 1.0))


@element
def masked_length(base: float, tuned: float, mask: float) -> float:
    """The same where it is given what is kept."""
    return abs(dare_masked(base, tuned, mask, 1.0))


@element
def largest_length(base: float, tuned: float, threshold: float) -> float:
    """The same where the smallest changes of the tensor are dropped."""
    return abs(dare_magnitude(base, tuned, threshold, 1.0))


def _dropped(count: int, drop: float) -> int:
    return int(count * drop)


_THRESHOLD = Statistic("threshold", magnitude, Rank(_dropped, by="drop"), each=True)


@final
class Dare(Sparsifier):
    r"""Drop a share p of each task vector at random and divide the rest by 1 - p, so that its mean stays what it was.

    .. math::
        m_j \sim \operatorname{Bernoulli}(1 - p), \qquad \hat\delta_j = \frac{m_j \delta_j}{1 - p}, \qquad
        \theta = \theta_0 + \lambda \sum_i w_i \hat\delta_i

    Alone it adds the changed task vectors; `before:` another method it changes the task vectors which that merges.

    With `select: magnitude` the int(n p) smallest entries of each tensor of n parameters are dropped, and those tied
    with the largest of them. What is random depends on nothing but `seed`, the model's position, the tensor's name
    and the parameter's index: the same recipe gives the same bytes anywhere. A `mask` (a file of tensors with the
    checkpoint's names, 0 where a parameter is dropped) takes the place of the draw; among models that have one, a model
    without keeps everything.

    The official code rescales only if it is asked to (`rescale: false` here is its default); the paper always does.
    `rescale: l1` multiplies each tensor's task vector by what gives it back its sum of magnitudes, as mergekit does:
    about 1 / (1 - p) for a large tensor, anything for a small one. A mask is taken to be one drawn with `drop`.

    Source: Yu et al. 2024, *Language Models are Super Mario* (arXiv 2311.03099), section 3, and the official code.

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"w": np.zeros(4)}, {"w": np.ones(4)}
        >>> weft.merge([tuned], base=base, method="dare", mask=[{"w": np.array([1.0, 0.0, 1.0, 0.0])}], drop=0.5)["w"]
        array([2., 0., 2., 0.])
    """

    name: ClassVar = "dare"
    title: ClassVar = "drop at random and rescale"
    formula: ClassVar = "θ = θ₀ + λ Σ wᵢ mᵢ δᵢ / (1 - p),  mᵢ = 1 with probability 1 - p, else 0"
    source: ClassVar = "Yu et al. 2024, arXiv 2311.03099"
    laws: ClassVar = {
        Law.ORDER: {"drop": 0.0},
        Law.COPIES: {"drop": 0.0, "weight": [0.5, 0.25, 0.25]},
        Law.ZERO_DELTAS: {},
        Law.SCALING: {},
    }

    drop: PerModel[Fraction] = parameter(0.5, "share of each task vector that is dropped (p)")
    rescale: bool | Literal["l1"] = parameter(
        True, "divide what is kept by 1 - p; l1: give each tensor back its sum of magnitudes"
    )
    select: Literal["random", "magnitude"] = parameter("random", "what is dropped: any, or the smallest of each tensor")
    seed: Integer = parameter(0, "of the draws")
    mask: PerModel[Annotated[Any, Tensors()]] = parameter(None, "what is kept (1) and dropped (0): a file of tensors")

    def change(self) -> Change:
        """A threshold if the smallest are dropped, and what is kept."""
        masked = any(mask is not None for mask in self.mask)
        drops = (0.0 if masked and m is None else p for p, m in zip(self.drop, self.mask, strict=True))
        factors = tuple(1.0 / (1.0 - p) if self.rescale is True and p < 1.0 else 1.0 for p in drops)
        values = {"drop": self.drop, "factor": factors}
        if masked:
            return Change(
                dare_masked, statistics=self._sums(masked_length), values=values, auxiliary={"mask": self.mask}
            )
        if self.select == "random":
            return Change(dare, statistics=self._sums(drawn_length), values=values, seed=self.seed)
        return Change(dare_magnitude, statistics=(_THRESHOLD, *self._sums(largest_length)), values=values)

    def _sums(self, kept: Scalar) -> tuple[Statistic | Derived, ...]:
        return keeping_l1(kept) if self.rescale == "l1" else ()
