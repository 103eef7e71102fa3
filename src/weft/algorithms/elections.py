"""The steps that sign-consensus methods share: electing a sign for a parameter, and combining the models that agree.

Both see `kept`: each model's change of one parameter, weighted and trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from weft.kernels.element import element

Reals = tuple[float, ...]
Function = Callable[..., float]


# Elect: a number whose sign is the elected one; zero if undecided.


@element
def elect_mass(kept: Reals, norm: Reals) -> float:
    """The sign that carries more total change."""
    total = 0.0
    for delta in kept:
        total += delta
    return total


@element
def elect_frequency(kept: Reals, norm: Reals) -> float:
    """The sign that more models have."""
    total = 0.0
    for delta in kept:
        total += sign_of(delta)
    return total


@element
def elect_normfrac(kept: Reals, norm: Reals) -> float:
    """The sign of the change that is the largest part of its task vector."""
    most = 0.0
    winner = 0.0
    for delta, length in zip(kept, norm):
        part = delta * delta / (length * length) if length > 0.0 else 0.0
        if part > most:
            most = part
            winner = delta
    return winner


@element
def elect_normmass(kept: Reals, norm: Reals) -> float:
    """As `elect_mass`, every change counting by its part of its task vector."""
    total = 0.0
    for delta, length in zip(kept, norm):
        total += sign_of(delta) * delta * delta / (length * length) if length > 0.0 else 0.0
    return total


@element
def elect_nothing(kept: Reals, norm: Reals) -> float:
    """No election."""
    return 0.0


@element
def sign_of(x: float) -> float:
    """-1, 0 or 1."""
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)


@element
def agrees(delta: float, sign: float) -> bool:
    """Whether a change has the elected sign; a sign of zero selects the negative changes, as in the official code."""
    return delta > 0.0 if sign > 0.0 else delta < 0.0


# Combine: the kept changes and the elected sign give the merged change.


@element
def combine_mean(kept: Reals, weight: Reals, sign: float) -> float:
    """The mean over the models that agree."""
    total = 0.0
    mass = 0.0
    for delta, w in zip(kept, weight):
        if agrees(delta, sign):
            total += delta
            mass += abs(w)
    return total / mass if mass > 0.0 else 0.0


@element
def combine_sum(kept: Reals, weight: Reals, sign: float) -> float:
    """The sum over the models that agree."""
    total = 0.0
    for delta in kept:
        if agrees(delta, sign):
            total += delta
    return total


@element
def combine_max(kept: Reals, weight: Reals, sign: float) -> float:
    """The largest change among the models that agree."""
    most = 0.0
    for delta in kept:
        if agrees(delta, sign):
            most = max(most, abs(delta))
    return most * sign_of(sign)


@element
def moved_mean(kept: Reals, weight: Reals, sign: float) -> float:
    """Without an election: the mean over the models that moved."""
    total = 0.0
    mass = 0.0
    for delta, w in zip(kept, weight):
        if delta != 0.0:
            total += delta
            mass += abs(w)
    return total / mass if mass > 0.0 else 0.0


@element
def plain_sum(kept: Reals, weight: Reals, sign: float) -> float:
    """The sum over all models."""
    total = 0.0
    for delta in kept:
        total += delta
    return total


@element
def plain_mean(kept: Reals, weight: Reals, sign: float) -> float:
    """The mean over all models."""
    mass = 0.0
    for w in weight:
        mass += abs(w)
    return plain_sum(kept, weight, sign) / mass if mass > 0.0 else 0.0


@element
def count_at_most(kept: Reals, x: float) -> float:
    """How many changes are no larger than x."""
    count = 0.0
    for delta in kept:
        count += 1.0 if delta <= x else 0.0
    return count


@element
def plain_median(kept: Reals, weight: Reals, sign: float) -> float:
    """The median over all models, of two middle ones the lower: the smallest that half of them do not exceed."""
    middle = (len(kept) - 1.0) // 2.0
    median = kept[0]
    for delta in kept:
        median = max(median, delta)
    for delta in kept:
        if count_at_most(kept, delta) > middle:
            median = min(median, delta)
    return median


@element
def plain_magnitude(kept: Reals, weight: Reals, sign: float) -> float:
    """The largest change of all models, whatever its sign."""
    largest = 0.0
    for delta in kept:
        if abs(delta) > abs(largest):
            largest = delta
    return largest


@element
def signed_mean(kept: Reals, weight: Reals, sign: float) -> float:
    """The mean over all models, made to have the elected sign."""
    return abs(plain_mean(kept, weight, sign)) * sign_of(sign)


@element
def signed_sum(kept: Reals, weight: Reals, sign: float) -> float:
    """The sum over all models, made to have the elected sign."""
    return abs(plain_sum(kept, weight, sign)) * sign_of(sign)


@element
def signed_median(kept: Reals, weight: Reals, sign: float) -> float:
    """The median over all models, made to have the elected sign."""
    return abs(plain_median(kept, weight, sign)) * sign_of(sign)


@element
def signed_magnitude(kept: Reals, weight: Reals, sign: float) -> float:
    """The largest change of all models, made to have the elected sign."""
    return abs(plain_magnitude(kept, weight, sign)) * sign_of(sign)


ELECTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "mass": elect_mass,
        "frequency": elect_frequency,
        "normfrac": elect_normfrac,
        "normmass": elect_normmass,
        "none": elect_nothing,
    }
)
"""By name: what gives a number whose sign is the elected one."""

COMBINATIONS: Mapping[str, tuple[Function, Function]] = MappingProxyType(
    {
        "mean": (combine_mean, moved_mean),
        "sum": (combine_sum, plain_sum),
        "max": (combine_max, plain_magnitude),
        "plain_mean": (signed_mean, plain_mean),
        "plain_sum": (signed_sum, plain_sum),
        "median": (signed_median, plain_median),
        "magnitude": (signed_magnitude, plain_magnitude),
    }
)
"""By name: how changes become one when a sign was elected, and when none was."""
