"""TIES-Merging: trim small changes, elect a sign for each parameter, average the models that agree."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import field_validator

from weft.algorithms.elections import COMBINATIONS, ELECTIONS, Function, Reals, elect_nothing, sign_of
from weft.algorithms.method import Fraction, Law, Method, NonNegative, Number, PerModel, Tensors, parameter
from weft.algorithms.program import Program, Rank, Share, Statistic, Total
from weft.kernels.element import element


@element
def ties(
    base: float,
    tuned: Reals,
    threshold: Reals,
    center: Reals,
    weight: Reals,
    norm: Reals,
    majority: float,
    scale: float,
    last: bool,
    trim: Function,
    elect: Function,
    combine: Function,
) -> float:
    """One parameter: elect the sign that carries more mass, combine the models that agree.

    Args:
        base: the value in the base.
        tuned: the value in each model.
        threshold: of each task vector, for `trim`.
        center: mean of each task vector, for `trim`.
        weight: factor of each task vector.
        norm: length of each trimmed task vector, for the elections that normalise.
        majority: the sign that wins where the election is undecided.
        scale: the paper's lambda.
        last: whether this is the last parameter of the scope.
        trim: from a change to what is kept of it.
        elect: from what is kept to a number with the elected sign.
        combine: from what is kept and the sign to the merged change.

    Example:
        >>> one, zero = (1.0,) * 3, (0.0,) * 3
        >>> steps = trim_magnitude, ELECTIONS["mass"], COMBINATIONS["mean"][0]
        >>> ties(0.0, (0.5, -0.2, 0.7), zero, zero, one, one, 1.0, 1.0, False, *steps)
        0.6
    """
    kept = tuple(w * trim(t - base, bar, mid, last) for t, w, bar, mid in zip(tuned, weight, threshold, center))
    sign = elect(kept, norm)
    if sign == 0.0:
        sign = majority
    return base + scale * combine(kept, weight, sign)


@element
def ties_with_signs(
    base: float,
    tuned: Reals,
    signs: float,
    threshold: Reals,
    center: Reals,
    weight: Reals,
    scale: float,
    last: bool,
    trim: Function,
    combine: Function,
) -> float:
    """One parameter, its sign given; otherwise as `ties`."""
    kept = tuple(w * trim(t - base, bar, mid, last) for t, w, bar, mid in zip(tuned, weight, threshold, center))
    return base + scale * combine(kept, weight, signs)


# Trim: a change, or zero if it is too small.


@element
def trim_magnitude(delta: float, threshold: float, center: float, last: bool) -> float:
    """Keep a change that is as large as the threshold."""
    return delta if abs(delta) >= threshold else 0.0


@element
def trim_norm(delta: float, threshold: float, center: float, last: bool) -> float:
    """As `trim_magnitude`; the last entry of the vector is always kept, as in the official code."""
    return delta if abs(delta) >= threshold or last else 0.0


@element
def trim_deviation(delta: float, threshold: float, center: float, last: bool) -> float:
    """Keep a change that lies farther than the threshold from the mean change."""
    return delta if abs(delta - center) > threshold else 0.0


# Statistics: what is computed for every parameter of the scope.


@element
def magnitude(base: float, tuned: float) -> float:
    """The length of one model's change."""
    return abs(tuned - base)


@element
def change(base: float, tuned: float) -> float:
    """One model's change."""
    return tuned - base


@element
def squared_deviation(base: float, tuned: float, center: float) -> float:
    """How far one model's change lies from its mean, squared."""
    return (tuned - base - center) * (tuned - base - center)


@element
def kept_square(
    base: float, tuned: float, threshold: float, center: float, weight: float, last: bool, trim: Function
) -> float:
    """One model's change after trimming, squared."""
    kept = weight * trim(tuned - base, threshold, center, last)
    return kept * kept


@element
def elected(
    base: float,
    tuned: Reals,
    threshold: Reals,
    center: Reals,
    weight: Reals,
    norm: Reals,
    last: bool,
    trim: Function,
    elect: Function,
) -> float:
    """The elected sign, before undecided ones are settled."""
    kept = tuple(w * trim(t - base, bar, mid, last) for t, w, bar, mid in zip(tuned, weight, threshold, center))
    return sign_of(elect(kept, norm))


def _smallest_kept(count: int, density: float) -> int:
    """The rank of the threshold: m = d - int(d K); everything from the m-th smallest magnitude on is kept."""
    return count - int(count * density)


def _mean(total: float, count: int) -> float:
    return total / count


def _deviations(total: float, count: int, deviations: float) -> float:
    return deviations * sqrt(total / max(count - 1, 1))


def _root(total: float, count: int) -> float:
    return sqrt(total)


def _sign(total: float, count: int) -> float:
    return float((total > 0) - (total < 0))


_TRIM = {"magnitude": trim_magnitude, "norm": trim_norm, "deviation": trim_deviation}
_THRESHOLD = {
    "magnitude": (Statistic("threshold", magnitude, Rank(_smallest_kept, by="density"), each=True),),
    "norm": (Statistic("threshold", magnitude, Share(by="density"), each=True),),
    "deviation": (
        Statistic("center", change, Total(_mean), each=True),
        Statistic("threshold", squared_deviation, Total(_deviations, by="deviations"), each=True),
    ),
}
_NORM = Statistic("norm", kept_square, Total(_root), each=True)
_MAJORITY = Statistic("majority", elected, Total(_sign))

Trim = Literal["magnitude", "norm", "deviation"]
Combination = Literal["mean", "sum", "max", "plain_mean", "plain_sum", "median", "magnitude"]


@final
class Ties(Method):
    r"""Trim small changes, elect a sign for each parameter, average the models that agree.

    Of each task vector, fine-tuned minus base, v is what trimming keeps, times the model's weight.

    .. math::
        s = \operatorname{sgn} \sum_i v_i, \qquad
        \theta = \theta_0 + \lambda \frac{\sum_{i:\, \operatorname{sgn} v_i = s} v_i}
                                       {\sum_{i:\, \operatorname{sgn} v_i = s} |w_i|}

    **Trim** looks at the whole task vector, all tensors as one vector of d numbers (`scope: model`), as the paper
    does. With `trim: magnitude` the threshold is the m-th smallest magnitude, m = d - int(d K) for density K, and
    everything at or above it is kept: int(d K) + 1 entries and those tied with the threshold; density 1 keeps all.
    `norm` keeps the largest entries that together hold a share `density` of the squared length (and, as the official
    code does, the last entry of the vector). `deviation` keeps entries farther than `deviations` standard deviations
    from the mean.

    **Elect**: `mass` as above; `frequency` counts models; `normfrac` takes the sign of the entry that is the largest
    part of its (trimmed) task vector; `normmass` weighs by that part; `none` elects nothing. An undecided sign, where
    all is trimmed or changes cancel exactly, becomes the sign of the sum of all signs in the scope; should that be
    zero too, the negative entries are chosen, as in the official code. Signs may be given: a file, or in Python a
    dict, of tensors with the checkpoint's names; a given zero selects the negative entries.

    **Combine**: `mean`, `sum`, `max` over the models that agree (with `elect: none`: that moved). `plain_mean`,
    `plain_sum`, `median` (lower middle) and `magnitude` (the largest change) take all models and give the result the
    elected sign, if one was elected.

    Where the official code divides by the length of a task vector that is zero (NaN), that model has no vote here.

    Source: Yadav et al. 2023, *TIES-Merging: Resolving Interference When Merging Models* (arXiv 2306.01708),
    section 4; trim and elect alternatives from its appendix and the official code.

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(5)}
        >>> a, b = {"w": np.array([4.0, 0.1, 3.0, -2.0, 0.2])}, {"w": np.array([2.0, 0.1, -5.0, 0.1, 0.3])}
        >>> weft.merge([a, b], base=base, method="ties", density=0.4)["w"]
        array([ 3. ,  0. , -5. , -2. ,  0.3])
    """

    name: ClassVar = "ties"
    title: ClassVar = "trim, elect sign, disjoint mean"
    formula: ClassVar = "s = sign Σ vᵢ;  θ = θ₀ + λ Σ vᵢ / Σ |wᵢ|, both sums over the models with sign vᵢ = s"
    source: ClassVar = "Yadav et al. 2023, arXiv 2306.01708"
    needs_base: ClassVar = True
    laws: ClassVar = {Law.COPIES: {"density": 1.0}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    density: PerModel[Fraction] = parameter(
        0.2, "fraction of each task vector that trimming keeps (for trim: norm, of its squared length)"
    )
    weight: PerModel[Number] = parameter(1.0, "factor of each task vector, applied before the election")
    scale: Number = parameter(1.0, "factor of the merged task vector (lambda)")
    scope: Literal["model", "tensor"] = parameter(
        "model", "trim and count signs over the whole model, or tensor by tensor"
    )
    trim: Trim = parameter("magnitude", "how the threshold is found")
    elect: Annotated[Any, Tensors(*ELECTIONS)] = parameter(
        "mass", "how the sign is chosen: mass, frequency, normfrac, normmass, none, or given signs (a file of tensors)"
    )
    combine: Combination = parameter("mean", "how the changes become one")
    deviations: PerModel[NonNegative] = parameter(
        1.0, "with trim: deviation, how many standard deviations from the mean are trimmed"
    )

    @field_validator("elect")
    @classmethod
    def _an_election_or_signs(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ELECTIONS and not value.endswith(".safetensors"):
            raise ValueError(f"should be one of {', '.join(ELECTIONS)}, or the path of a .safetensors file of signs")
        return value

    def program(self) -> Program:
        """Thresholds, then the majority of signs, then the map; a pass is left out when an option makes it moot."""
        given = self.elect not in ELECTIONS if isinstance(self.elect, str) else True
        votes = not given and self.elect != "none"
        signed, unsigned = COMBINATIONS[self.combine]
        zeros = (0.0,) * len(self.weight)
        functions = {
            "trim": _TRIM[self.trim],
            "elect": elect_nothing if given else ELECTIONS[self.elect],
            "combine": signed if given or votes else unsigned,
        }
        norms = (_NORM,) if self.elect in ("normfrac", "normmass") else ()
        return Program(
            ties_with_signs if given else ties,
            functions,
            statistics=(*_THRESHOLD[self.trim], *norms, *((_MAJORITY,) if votes else ())),
            values={
                "weight": self.weight,
                "scale": self.scale,
                "density": self.density,
                "deviations": self.deviations,
                "majority": 0.0,
                "threshold": zeros,
                "center": zeros,
                "norm": zeros,
            },
            auxiliary={"signs": self.elect} if given else {},
            whole_model=self.scope == "model",
            relative=True,
        )
