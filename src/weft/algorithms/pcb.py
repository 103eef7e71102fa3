"""PCB-Merging: the entries of task vectors compete, within their model and between models, and the weak are dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, final

from weft.algorithms.elections import Reals, sign_of
from weft.algorithms.method import Fraction, Law, Method, Number, PerModel, parameter
from weft.algorithms.program import Extreme, Program, Rank, Statistic
from weft.kernels.element import element
from weft.kernels.elementary import exp, tanh

Function = Callable[..., float]


@element
def pcb(
    base: float,
    tuned: Reals,
    low: Reals,
    high: Reals,
    bottom: Reals,
    top: Reals,
    weight: Reals,
    scale: float,
    gather: Function,
    between: Function,
) -> float:
    """One parameter: the mean of the clamped changes, each weighted by how well it competes.

    Args:
        base: the value in the base.
        tuned: the value in each model.
        low: of each task vector, what smaller magnitudes are raised to.
        high: what larger magnitudes are lowered to.
        bottom: of each task vector's scores, the one up to which an entry counts nothing.
        top: the largest of them, which counts 1.
        weight: factor of each clamped task vector.
        scale: factor of the mean.
        gather: from all changes to what each competes with.
        between: how far a change agrees with that.

    Example:
        >>> one, zero = (1.0, 1.0), (0.0, 0.0)
        >>> round(pcb(0.0, (1.0, 0.5), zero, one, zero, one, one, 1.0, sum_of_changes, between_sums), 6)
        0.932312
    """
    gathered = gather(base, tuned, low, high)
    total = 0.0
    mass = 0.0
    for i in range(len(tuned)):
        beta = competed(tuned[i] - base, low[i], high[i], gathered, base, tuned, low, high, between)
        s = share(beta, bottom[i], top[i])
        total += s * weight[i] * clamped(tuned[i] - base, low[i], high[i])
        mass += s
    return base + scale * total / max(mass, SMALLEST)


SMALLEST = 1e-12
"""What a sum of shares is divided by at least."""


@element
def score(base: float, tuned: Reals, own: float, low: Reals, high: Reals, gather: Function, between: Function) -> float:
    """How one model's change of a parameter does in competition; negative where it is against the others."""
    mine = 0.0
    least = 0.0
    most = 0.0
    for i in range(len(tuned)):
        mine = tuned[i] - base if i == own else mine
        least = low[i] if i == own else least
        most = high[i] if i == own else most
    return competed(mine, least, most, gather(base, tuned, low, high), base, tuned, low, high, between)


@element
def competed(
    delta: float,
    least: float,
    most: float,
    gathered: float,
    base: float,
    tuned: Reals,
    low: Reals,
    high: Reals,
    between: Function,
) -> float:
    """The score of one change.

    Within its model it counts e^(n u^2 - n), with u the magnitude scaled to [0, 1]; the constant factor e^-n cancels in
    the shares and keeps the number finite.
    """
    unit = scaled(delta, least, most)
    within = exp(len(tuned) * (unit * unit - 1.0))
    return within * between(delta, sign_of(delta) * unit, gathered, base, tuned, low, high)


@element
def clamped(delta: float, low: float, high: float) -> float:
    """A change whose magnitude is kept between two bounds; none stays none."""
    return sign_of(delta) * min(max(abs(delta), low), high)


@element
def scaled(delta: float, low: float, high: float) -> float:
    """The magnitude of a change between the bounds, as a number from 0 to 1; 0 if they are equal."""
    return (min(max(abs(delta), low), high) - low) / (high - low) if high > low else 0.0


@element
def share(score: float, bottom: float, top: float) -> float:
    """What an entry counts: 0 up to the bottom, 1 at the top; 0 if they are equal."""
    return (max(score, bottom) - bottom) / (top - bottom) if top > bottom else 0.0


# Between the models: what all together say of a parameter, and how far one change agrees with it.


@element
def sum_of_changes(base: float, tuned: Reals, low: Reals, high: Reals) -> float:
    """The sum of all changes."""
    total = 0.0
    for theta in tuned:
        total += theta - base
    return total


@element
def sum_of_scaled(base: float, tuned: Reals, low: Reals, high: Reals) -> float:
    """The sum of all changes, each scaled to [-1, 1]."""
    total = 0.0
    for theta, least, most in zip(tuned, low, high):
        total += sign_of(theta - base) * scaled(theta - base, least, most)
    return total


@element
def no_sum(base: float, tuned: Reals, low: Reals, high: Reals) -> float:
    """Nothing: every change is compared with every other."""
    return 0.0


@element
def between_sums(
    delta: float, unit: float, gathered: float, base: float, tuned: Reals, low: Reals, high: Reals
) -> float:
    """The change times what was gathered, bounded."""
    return tanh(delta * gathered)


@element
def between_pairs(
    delta: float, unit: float, gathered: float, base: float, tuned: Reals, low: Reals, high: Reals
) -> float:
    """The sum of the bounded products of the scaled change with each scaled change, its own included."""
    total = 0.0
    for theta, least, most in zip(tuned, low, high):
        total += tanh(unit * sign_of(theta - base) * scaled(theta - base, least, most))
    return total


@element
def magnitude(base: float, tuned: float) -> float:
    """The length of one model's change."""
    return abs(tuned - base)


def _from_below(count: int, clamp: float) -> int:
    return int(count * clamp) + 1


def _from_above(count: int, clamp: float) -> int:
    return max(int(count * (1 - clamp) - 1), 0) + 1


def _dropped(count: int, ratio: float) -> int:
    return min(int(count * (1 - ratio)) + 1, count)


_STATISTICS = (
    Statistic("low", magnitude, Rank(_from_below, by="clamp"), each=True),
    Statistic("high", magnitude, Rank(_from_above, by="clamp"), each=True),
    Statistic("bottom", score, Rank(_dropped, by="ratio", signed=True), each=True, among=True),
    Statistic("top", score, Extreme("largest"), each=True, among=True),
)

_VARIANTS = {
    "reference": (0.0001, sum_of_changes, between_sums),
    "nlp": (0.01, sum_of_changes, between_sums),
    "vision": (0.01, sum_of_scaled, between_sums),
    "vision_es": (0.01, no_sum, between_pairs),
}


@final
class Pcb(Method):
    r"""Weigh every entry of every task vector by a competition; drop the weak ones and average the rest.

    Of each task vector, fine-tuned minus base, A is the magnitude clamped to its quantiles q and 1 - q, u is A scaled
    to [0, 1] over the task vector, and n is the number of models.

    .. math::
        \beta_i = e^{n u_i^2} \tanh\Bigl(\delta_i \sum_k \delta_k\Bigr), \qquad
        S_i = \operatorname{norm}\bigl(\max(\beta_i, \mathrm{quantile}_{1-r}(\beta_i))\bigr), \qquad
        \theta = \theta_0 + \lambda \frac{\sum_i S_i w_i \operatorname{sgn}(\delta_i) A_i}{\sum_i S_i}

    `norm` scales the scores of one task vector to [0, 1], so that all up to the quantile 1 - r, and those tied with
    it, count nothing: somewhat less than a share r is left. Where no model is left, the base stays.

    The authors published four different algorithms under the name; `variant` chooses: `reference` (the one above,
    q = 0.0001), `nlp` (the same, q = 0.01), `vision` (the sum is over sgn(delta) u instead, q = 0.01) and `vision_es`
    (the sum over the models k of tanh(sgn(delta_i) u_i sgn(delta_k) u_k), q = 0.01). The vision scripts have a lambda
    for each task, which is `weight` here; the others have one, which is `scale`.

    A row of scores or magnitudes that are all equal is scaled to zeros, where the official code divides 0 by 0 and
    writes NaN: a model that changed nothing, or all entries alike, has no say. With r = 0 nothing is left, where the
    official code ends with an error.

    Source: Du et al. 2024, *Parameter Competition Balancing for Model Merging* (arXiv 2410.02396), section 3, and the
    official code.

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(5)}
        >>> a, b = {"w": np.array([4.0, 1.0, 0.5, -2.0, 3.0])}, {"w": np.array([2.0, -1.0, 3.0, -2.0, 0.2])}
        >>> weft.merge([a, b], base=base, method="pcb", ratio=0.5)["w"].round(2)
        array([2.5, 0. , 2. , 0. , 3. ])
    """

    name: ClassVar = "pcb"
    title: ClassVar = "entries compete, the weak are dropped"
    formula: ClassVar = "θ = θ₀ + λ Σ Sᵢ wᵢ sgn(δᵢ) Aᵢ / Σ Sᵢ;  S from the scores exp(n uᵢ²) tanh(δᵢ Σ δₖ)"
    source: ClassVar = "Du et al. 2024, arXiv 2410.02396"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}}

    ratio: Fraction = parameter(0.1, "share of each task vector that is kept (r)")
    weight: PerModel[Number] = parameter(1.0, "factor of each task vector in the mean")
    scale: Number = parameter(1.0, "factor of the merged task vector (lambda)")
    variant: Literal["reference", "nlp", "vision", "vision_es"] = parameter(
        "reference", "which of the authors' four algorithms"
    )
    scope: Literal["model", "tensor"] = parameter("model", "compete over the whole model, or tensor by tensor")

    def program(self) -> Program:
        """Bounds of the magnitudes, bounds of the scores, then the map."""
        clamp, gather, between = _VARIANTS[self.variant]
        return Program(
            pcb,
            {"gather": gather, "between": between},
            statistics=_STATISTICS,
            values={"ratio": self.ratio, "clamp": clamp, "weight": self.weight, "scale": self.scale},
            whole_model=self.scope == "model",
            relative=True,
        )
