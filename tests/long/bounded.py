"""Numbers that know how far a machine may be from them: a running error analysis, over whole arrays.

A `Bounded` is what exact arithmetic would give (in float64), with a bound on how far the same formula, evaluated in the
precision of a merge, may be from that. The model is the standard one of floating-point arithmetic (Higham, *Accuracy
and Stability of Numerical Algorithms*, section 2.2 with gradual underflow, and 3.3 for running bounds): an operation on
numbers x', y' that are within ex, ey of x, y gives

    |fl(x' + y') - (x + y)|  <=  ex + ey + u |x' + y'|
    |fl(x' * y') - x y|      <=  |x| ey + |y| ex + ex ey + u |x' y'| + eta
    |fl(x' / y') - x / y|    <=  (ex + |x / y| ey) / (|y| - ey) + u |x' / y'| + eta

with u half a unit in the last place and eta half the smallest number (sums do not underflow). Where both operands are
exact and the result can be represented, nothing is rounded and the bound stays 0; this is what makes ties exact.

A comparison whose outcome is not settled by the bounds is **unsure**. In the first evaluation of a formula the outcome
of exact arithmetic is followed, and an element whose value would differ is marked as `forked`. For these few elements
the formula is then evaluated again along every other path (`World.path`), until all the answers that rounding may
choose between are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_NOISE = 2.0**-51
"""The values themselves are float64: their own rounding, twice, is part of every bound that is not 0."""


@dataclass(frozen=True)
class Precision:
    """What a merge computes in.

    Attributes:
        storage: the numpy type.
        unit: half a unit in the last place of 1.
        tiny: half the smallest positive number (for float64 the whole, which float64 can hold).
        limit: what is as large as this rounds to infinity.
    """

    storage: np.dtype[Any]
    unit: float
    tiny: float
    limit: float


SINGLE = Precision(np.dtype(np.float32), 2.0**-24, 2.0**-150, (2 - 2.0**-24) * 2.0**127)
DOUBLE = Precision(np.dtype(np.float64), 2.0**-53, 2.0**-1074, float(np.finfo(np.float64).max))


@dataclass
class World:
    """One evaluation: its precision, and which way it goes where a comparison is unsure.

    Attributes:
        precision: what is computed in.
        path: None to follow exact arithmetic and to mark what forks; else a number whose k-th bit reverses the k-th
            unsure comparison of every element.
        spent: how many unsure comparisons each element met.
    """

    precision: Precision
    path: int | None = None
    spent: Array = field(default_factory=lambda: np.zeros((), np.int64))

    def settle(self, value: Array, unsure: Array) -> Truth:
        """The outcome of a comparison."""
        if self.path is None:
            return Truth(value, unsure, self)
        self.spent = np.broadcast_to(self.spent, np.broadcast_shapes(self.spent.shape, unsure.shape))
        reverse = unsure & ((self.path >> np.minimum(self.spent, 62)) & 1).astype(bool)
        self.spent = self.spent + unsure
        return Truth(value ^ reverse, np.zeros_like(unsure), self)

    def number(self, value: Any) -> Bounded:
        """A number as it is stored; what the merge sees is that number rounded to its precision."""
        exact = np.asarray(value, np.float64)
        with np.errstate(over="ignore"):
            error = np.abs(exact.astype(self.precision.storage).astype(np.float64) - exact)
        return Bounded(exact, error, self)


@dataclass(frozen=True)
class Truth:
    """The outcome of a comparison, and where it is unsure."""

    value: Array
    unsure: Array
    world: World | None = None


def _no_forks() -> Array:
    return np.zeros((), bool)


@dataclass(frozen=True, eq=False)
class Bounded:
    """Exact values, how far the machine may be from them, and where it may have taken another branch.

    Attributes:
        value, error: the values, and how far the machine may be from them.
        world: how to compute.
        forked: where it may have taken another branch.
        same, where: another number that this is, bit by bit, and where: what `max` took. Their difference is exactly 0.

    Example:
        >>> third = World(SINGLE).number(1.0) / 3.0
        >>> bool(abs(float(np.float32(1) / np.float32(3)) - third.value) <= third.error < 1e-7)
        True
    """

    value: Array
    error: Array
    world: World
    forked: Array = field(default_factory=_no_forks)
    same: Bounded | None = None
    where: Array = field(default_factory=_no_forks)

    def __add__(self, other: Number) -> Bounded:
        other = self._lifted(other)
        with np.errstate(all="ignore"):
            total = self.value + other.value
            part = total - self.value
            lost = (self.value - (total - part)) + (other.value - part)  # exactly what float64 rounded away (Knuth)
        return self._made(total, self.error + other.error, lost == 0, other, underflow=False)

    def __mul__(self, other: Number) -> Bounded:
        other = self._lifted(other)
        with np.errstate(all="ignore"):
            product = self.value * other.value
            error = np.abs(self.value) * other.error + np.abs(other.value) * self.error + self.error * other.error
        nothing = _is_nothing(self, other) | _is_nothing(other, self)
        made = self._made(product, error, _product_is_exact(self.value, other.value), other, underflow=True)
        return replace(made, value=np.where(nothing, 0.0, made.value), error=np.where(nothing, 0.0, made.error))

    def __truediv__(self, other: Number) -> Bounded:
        other = self._lifted(other)
        with np.errstate(all="ignore"):
            quotient = self.value / other.value
            away = np.abs(other.value) - other.error
            error = np.where(away > 0, (self.error + np.abs(quotient) * other.error) / away, np.inf)
        made = self._made(quotient, error, np.zeros((), bool), other, underflow=True)
        nothing = _is_nothing(self, other) & (away > 0)
        return replace(made, value=np.where(nothing, 0.0, made.value), error=np.where(nothing, 0.0, made.error))

    def __neg__(self) -> Bounded:
        return Bounded(-self.value, self.error, self.world, self.forked)

    def __abs__(self) -> Bounded:
        return Bounded(np.abs(self.value), self.error, self.world, self.forked)

    def __sub__(self, other: Number) -> Bounded:
        made = self + -self._lifted(other)
        if self.same is None or other is not self.same:
            return made
        return replace(made, value=np.where(self.where, 0.0, made.value), error=np.where(self.where, 0.0, made.error))

    def __radd__(self, other: Number) -> Bounded:
        return self._lifted(other) + self

    def __rsub__(self, other: Number) -> Bounded:
        return self._lifted(other) - self

    def __rmul__(self, other: Number) -> Bounded:
        return self._lifted(other) * self

    def __rtruediv__(self, other: Number) -> Bounded:
        return self._lifted(other) / self

    def __lt__(self, other: Number) -> Truth:
        return self._compared(other, np.less, same=False)

    def __le__(self, other: Number) -> Truth:
        return self._compared(other, np.less_equal, same=True)

    def __gt__(self, other: Number) -> Truth:
        return self._compared(other, np.greater, same=False)

    def __ge__(self, other: Number) -> Truth:
        return self._compared(other, np.greater_equal, same=True)

    def __eq__(self, other: object) -> Truth:  # type: ignore[override]
        return self._compared(other, np.equal, same=True)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Truth:  # type: ignore[override]
        return self._compared(other, np.not_equal, same=False)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        raise TypeError("an array of numbers is neither true nor false: the formula is not branchless")

    def _lifted(self, other: Number) -> Bounded:
        return other if isinstance(other, Bounded) else self.world.number(other)

    def _made(self, value: Array, error: Array, is_exact: Array, other: Bounded, underflow: bool) -> Bounded:
        precision = self.world.precision
        with np.errstate(all="ignore"):
            error = np.where(np.isnan(error), np.inf, error)
            fits = value.astype(precision.storage).astype(np.float64) == value
            rounded = precision.unit * (np.abs(value) + error) + (precision.tiny if underflow else 0.0)
            exact = is_exact & fits & (self.error == 0) & (other.error == 0)
            error = np.where(exact, 0.0, error + rounded + _NOISE * np.abs(value))
            error = np.where(np.abs(value) + error < precision.limit, error, np.inf)
        return Bounded(value, error, self.world, self.forked | other.forked)

    def _compared(self, other: Number, outcome: Callable[[Array, Array], Array], same: bool) -> Truth:
        if other is self:
            whole = np.full(self.value.shape, same)
            return Truth(whole, np.zeros_like(whole), self.world)
        other = self._lifted(other)
        with np.errstate(invalid="ignore"):
            error = self.error + other.error
            unsure = ~(np.abs(self.value - other.value) > error) & (error > 0)
            return self.world.settle(outcome(self.value, other.value), unsure)


Number = Bounded | float | int


def _is_nothing(x: Bounded, other: Bounded) -> Array:
    """Whether x is exactly 0 and so is its product with the other, which may not be exact, but is finite."""
    return np.asarray((x.value == 0) & (x.error == 0) & np.isfinite(other.error))


def _product_is_exact(a: Array, b: Array) -> Array:
    """Whether float64 holds a product: two numbers of float32, or a power of two."""
    short = (a.astype(np.float32) == a) & (b.astype(np.float32) == b)
    power = (np.abs(np.frexp(a)[0]) == 0.5) | (np.abs(np.frexp(b)[0]) == 0.5)
    normal = np.abs(a * b) > 2.0**-1000
    return np.asarray(short | (power & normal) | (a == 0) | (b == 0))


def larger(a: Number, b: Number) -> Number:
    """`max`, which is continuous: nothing forks."""
    if not isinstance(a, Bounded) and not isinstance(b, Bounded):
        return max(a, b)
    first, second = _both(a, b)
    error = np.where(first.value > second.value, first.error, second.error)
    near = ~(np.abs(first.value - second.value) > first.error + second.error)
    error = np.where(near, np.maximum(first.error, second.error), error)
    forked = first.forked | second.forked
    return Bounded(
        np.maximum(first.value, second.value), error, first.world, forked, second, ~near & (second.value > first.value)
    )


def smaller(a: Number, b: Number) -> Number:
    """`min`."""
    if not isinstance(a, Bounded) and not isinstance(b, Bounded):
        return min(a, b)
    return -larger(-a, -b)  # type: ignore[operator]


def exp(x: Number) -> Bounded | float:
    """E to the power of x, which the merge knows within 2 units in the last place."""
    if not isinstance(x, Bounded):
        return math.exp(x)
    with np.errstate(all="ignore"):
        value = np.exp(x.value)
        error = value * np.expm1(x.error)
    return _known_within(x, value, error, units=4)


def tanh(x: Number) -> Bounded | float:
    """The hyperbolic tangent, which the merge knows within 4 units in the last place; its slope is at most 1."""
    if not isinstance(x, Bounded):
        return math.tanh(x)
    return _known_within(x, np.tanh(x.value), x.error, units=8)


def _known_within(x: Bounded, value: Array, error: Array, units: int) -> Bounded:
    """A function's value, off by so many halves of a unit in the last place at most; 0 and 1 are hit exactly."""
    precision = x.world.precision
    off = error + units * precision.unit * (np.abs(value) + error) + precision.tiny + _NOISE * np.abs(value)
    return Bounded(value, np.where((x.value == 0) & (x.error == 0), 0.0, off), x.world, x.forked)


def select(test: Truth | bool, a: Any, b: Any) -> Any:
    """`a if test else b`; where the test is unsure, a bound that holds either way, and a mark if that matters."""
    if isinstance(test, (bool, np.bool_)):
        return a if test else b
    if isinstance(a, (Truth, bool, np.bool_)):
        return _selected_truth(test, truth(a), truth(b))
    assert test.world is not None
    first, second = (x if isinstance(x, Bounded) else test.world.number(x) for x in (a, b))
    chosen = np.where(test.value, first.value, second.value)
    with np.errstate(invalid="ignore"):
        apart = np.abs(first.value - second.value)
        apart = np.where(np.isnan(apart), np.inf, apart)
        either = np.where(test.value, second.error, first.error) + apart
    own = np.where(test.value, first.error, second.error)
    error = np.where(test.unsure, np.maximum(own, either), own)
    forks = test.unsure & ((apart > first.error + second.error) | first.forked | second.forked)
    return Bounded(chosen, error, first.world, np.where(test.value, first.forked, second.forked) | forks)


def _selected_truth(test: Truth, a: Truth, b: Truth) -> Truth:
    doubt = test.unsure & ((a.value != b.value) | a.unsure | b.unsure)
    return Truth(
        np.where(test.value, a.value, b.value), np.where(test.value, a.unsure, b.unsure) | doubt, _world(test, a, b)
    )


def _world(*truths: Truth) -> World | None:
    return next((t.world for t in truths if t.world), None)


def truth(value: Truth | bool) -> Truth:
    """A truth value as one for arrays."""
    return value if isinstance(value, Truth) else Truth(np.asarray(value), np.zeros((), bool))


def either(a: Truth | bool, b: Truth | bool) -> Truth:
    """`a or b`."""
    return _selected_truth(truth(a), truth(True), truth(b))


def both(a: Truth | bool, b: Truth | bool) -> Truth:
    """`a and b`."""
    return _selected_truth(truth(a), truth(b), truth(False))


def negated(a: Truth | bool) -> Truth:
    """`not a`."""
    return Truth(~truth(a).value, truth(a).unsure, truth(a).world)


def _both(a: Number, b: Number) -> tuple[Bounded, Bounded]:
    world = a.world if isinstance(a, Bounded) else b.world  # type: ignore[union-attr]
    return (
        a if isinstance(a, Bounded) else world.number(a),
        b if isinstance(b, Bounded) else world.number(b),
    )
