"""DELLA: drop small changes more often than large ones, then elect signs and average the models that agree."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field, model_validator

from weft.algorithms.elections import Function, Reals, combine_mean, combine_sum, plain_mean, plain_sum
from weft.algorithms.method import Fraction, Integer, Law, NonNegative, PerModel, Tensors, parameter
from weft.algorithms.program import Change, Program
from weft.algorithms.rescaling import keeping_l1, magnitude
from weft.algorithms.sparsifier import Sparsifier
from weft.kernels.element import element


@element
def keep_probability(rank: float, length: float, density: float, epsilon: float) -> float:
    """How likely one change is kept: from density - epsilon, the smallest of its row, to density + epsilon.

    Args:
        rank: its place in its row by magnitude, from 0.
        length: parameters of the row; a row of one keeps it with the density.
        density: the mean over a row.
        epsilon: half the width of the window of probabilities.

    Example:
        >>> [keep_probability(r, length=3.0, density=0.5, epsilon=0.25) for r in (0.0, 1.0, 2.0)]
        [0.25, 0.5, 0.75]
    """
    return density - epsilon + 2.0 * epsilon * rank / (length - 1.0) if length > 1.0 else density


@element
def magprune(
    base: float,
    tuned: float,
    draw: float,
    rank: float,
    length: float,
    density: float,
    epsilon: float,
    factor: float,
    divide: Function,
) -> float:
    """One model's change of one parameter: nothing, or what makes up for how likely it was to be kept."""
    likely = keep_probability(rank, length, density, epsilon)
    return divide(tuned - base, likely) * factor if draw < likely else 0.0


@element
def magprune_masked(
    base: float,
    tuned: float,
    mask: float,
    rank: float,
    length: float,
    density: float,
    epsilon: float,
    factor: float,
    divide: Function,
) -> float:
    """The same where it is given what is kept."""
    likely = keep_probability(rank, length, density, epsilon)
    return divide(tuned - base, likely) * factor if mask != 0.0 else 0.0


@element
def divided(delta: float, likely: float) -> float:
    """Made up for by the parameter's own probability."""
    return delta / likely


@element
def undivided(delta: float, likely: float) -> float:
    """As it is."""
    return delta


@element
def drawn_length(
    base: float, tuned: float, draw: float, rank: float, length: float, density: float, epsilon: float
) -> float:
    """The magnitude of what is kept."""
    return abs(tuned - base) if draw < keep_probability(rank, length, density, epsilon) else 0.0


@element
def masked_length(base: float, tuned: float, mask: float) -> float:
    """The same where it is given what is kept."""
    return abs(tuned - base) if mask != 0.0 else 0.0


@element
def della(base: float, tuned: Reals, weight: Reals, scale: float, combine: Function) -> float:
    """One parameter, its changes pruned: elect the sign of the weighted sum, combine the models that agree.

    Args:
        base: the value in the base.
        tuned: the value in each model, its change pruned.
        weight: factor of each task vector.
        scale: the paper's lambda.
        combine: from the weighted changes and the sign to the merged change.

    Example:
        >>> della(0.0, (0.5, -0.2, 0.7), weight=(1.0, 1.0, 1.0), scale=1.0, combine=combine_mean)
        0.6
    """
    kept = tuple(w * (t - base) for t, w in zip(tuned, weight))
    sign = 1.0 if plain_sum(kept, weight, 0.0) >= 0.0 else -1.0
    return base + scale * combine(kept, weight, sign)


_COMBINE = {
    (True, "mean"): combine_mean,
    (True, "sum"): combine_sum,
    (False, "mean"): plain_mean,
    (False, "sum"): plain_sum,
}


@final
class Della(Sparsifier):
    r"""Drop small changes more often than large ones (MAGPRUNE), elect a sign, average the models that agree.

    In each row of n parameters (the last dimension; a vector is one row), r = 0 ... n - 1 being a parameter's place by
    the magnitude of its change:

    .. math::
        q_j = (K - \varepsilon) + \frac{2 \varepsilon r_j}{n - 1}, \qquad
        m_j \sim \operatorname{Bernoulli}(q_j), \qquad \hat\delta_j = \frac{m_j \delta_j}{q_j}

    .. math::
        s = \operatorname{sgn} \sum_i w_i \hat\delta_i, \qquad
        \theta = \theta_0 + \lambda \frac{\sum_{i:\, \operatorname{sgn} w_i \hat\delta_i = s} w_i \hat\delta_i}
                                       {\sum_{i:\, \operatorname{sgn} w_i \hat\delta_i = s} |w_i|}

    where an undecided sign is plus. `before:` another method it prunes the task vectors which that merges, and no more.

    `density` K is the mean probability, 1 - p of the paper's drop rate p. `epsilon` is **half** the width of the window
    of probabilities: half of the paper's epsilon, and of `window_size` in the official code. All probabilities must
    lie between 0 and 1, so epsilon < K < 1 - epsilon; density 1 keeps everything. The paper divides r by n, the code,
    and this, by n - 1. Of equal magnitudes the earlier has the lower place.

    `rescale: true` divides each change by its own probability. `l1` multiplies each tensor's task vector by what gives
    it back its sum of magnitudes, as mergekit does. What is random depends on nothing but `seed`, the model's
    position, the tensor's name and the parameter's index. A `mask` takes the place of the draw, not of the
    probabilities that it was drawn with; among models that have one, a model without keeps everything.

    The mean weighs by |w| where the official code adds the weights as they are; they differ for negative ones.
    mergekit's `della_linear` is `elect: false, combine: sum`.

    Source: Deep et al. 2024, *DELLA-Merging* (arXiv 2406.11617), section 3, and the official code.

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"w": np.zeros(3)}, {"w": np.array([1.0, 2.0, 3.0])}
        >>> mask = [{"w": np.array([1.0, 0.0, 1.0])}]
        >>> weft.merge([tuned], base=base, method="della", density=0.5, epsilon=0.25, mask=mask)["w"]
        array([4., 0., 4.])
    """

    name: ClassVar = "della"
    title: ClassVar = "drop by magnitude at random, elect sign, disjoint mean"
    formula: ClassVar = (
        "δ̂ⱼ = mⱼ δⱼ / qⱼ,  qⱼ = (K - ε) + 2ε rⱼ / (n - 1);  then θ = θ₀ + λ Σ wᵢ δ̂ᵢ / Σ |wᵢ| over the elected"
    )
    source: ClassVar = "Deep et al. 2024, arXiv 2406.11617"
    alone: ClassVar = frozenset({"weight", "scale", "elect", "combine"})
    laws: ClassVar = {
        Law.COPIES: {"density": 1.0},
        Law.ORDER: {"density": 1.0},
        Law.ZERO_DELTAS: {},
        Law.SCALING: {},
    }

    density: PerModel[Fraction] = parameter(0.7, "share of each task vector that is kept, on average (K)")
    epsilon: PerModel[Annotated[NonNegative, Field(lt=0.5)]] = parameter(
        0.07, "half the width of the window of probabilities"
    )
    rescale: bool | Literal["l1"] = parameter(
        True, "divide what is kept by its probability; l1: give each tensor back its sum of magnitudes"
    )
    seed: Integer = parameter(0, "of the draws")
    mask: PerModel[Annotated[Any, Tensors()]] = parameter(None, "what is kept (1) and dropped (0): a file of tensors")
    elect: bool = parameter(True, "alone: only changes that have the sign of the weighted sum count")
    combine: Literal["mean", "sum"] = parameter("mean", "alone: how the changes become one")

    @model_validator(mode="after")
    def _probabilities(self) -> Della:
        for density, epsilon in zip(self.density, self.epsilon, strict=True):
            if density < 1.0 and not epsilon < density < 1.0 - epsilon:
                low, high = density - epsilon, density + epsilon
                least = f"make epsilon less than {min(density, 1 - density):g}, or density 1"
                raise ValueError(
                    f"density {density:g} with epsilon {epsilon:g} makes probabilities from {low:g} to {high:g}, which "
                    f"must lie between 0 and 1; {least if density else 'give a density above 0'}"
                )
        return self

    def change(self) -> Change:
        """What is kept, by place in the row."""
        masked = any(mask is not None for mask in self.mask)
        densities = tuple(1.0 if masked and m is None else d for d, m in zip(self.density, self.mask, strict=True))
        epsilons = tuple(0.0 if d == 1.0 else e for d, e in zip(densities, self.epsilon, strict=True))
        values = {"density": densities, "epsilon": epsilons, "factor": (1.0,) * len(epsilons)}
        return Change(
            magprune_masked if masked else magprune,
            ranking=magnitude,
            functions={"divide": divided if self.rescale is True else undivided},
            statistics=keeping_l1(masked_length if masked else drawn_length) if self.rescale == "l1" else (),
            values=values,
            auxiliary={"mask": self.mask} if masked else {},
            seed=self.seed,
        )

    def program(self) -> Program:
        """Prune, elect, combine."""
        return Program(
            della,
            {"combine": _COMBINE[self.elect, self.combine]},
            values={"weight": self.weight, "scale": self.scale},
            relative=True,
            change=self.change(),
        )
