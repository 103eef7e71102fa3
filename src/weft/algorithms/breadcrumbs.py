"""Model Breadcrumbs: leave out the largest and the smallest changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, Literal, final

from weft.algorithms.method import Fraction, Law, PerModel, parameter
from weft.algorithms.program import Change, Derived, Number, Numbers, Rank, Statistic
from weft.algorithms.rescaling import magnitude
from weft.algorithms.sparsifier import Sparsifier
from weft.kernels.element import element


@element
def in_row(base: float, tuned: float, rank: float, low: float, high: float) -> float:
    """One model's change of one parameter, if its place in its row is between two places.

    Example:
        >>> [in_row(1.0, 3.0, rank, low=1.0, high=3.0) for rank in (0.0, 1.0, 2.0, 3.0)]
        [0.0, 2.0, 2.0, 0.0]
    """
    return tuned - base if low <= rank and rank < high else 0.0


@element
def in_tensor(base: float, tuned: float, above: float, up_to: float) -> float:
    """The same, if its magnitude is between two of the tensor's."""
    return tuned - base if above < abs(tuned - base) and abs(tuned - base) <= up_to else 0.0


Places = Callable[[int, float, float], tuple[int, int]]
"""From a number of parameters, beta and gamma to where in the order of magnitudes those lie that are kept."""


def top_first(count: int, density: float, gamma: float) -> tuple[int, int]:
    """Where the kept lie if the largest are left out first: the places from the first number up to the second.

    Example:
        >>> top_first(10, 0.5, 0.2)
        (3, 8)
    """
    high = count - int(count * gamma)
    return max(high - int(count * density), 0), high


def top_last(count: int, density: float, gamma: float) -> tuple[int, int]:
    """Where they lie if the largest are first kept, and the largest of these left out.

    Example:
        >>> top_last(10, 0.5, 0.2)
        (5, 8)
    """
    return count - int(count * density), count - int(count * gamma)


def top_as_room_allows(count: int, density: float, gamma: float) -> tuple[int, int]:
    """Where they lie if so many are kept in any case, and fewer of the largest left out if need be.

    Example:
        >>> top_as_room_allows(10, 0.5, 0.2), top_as_room_allows(10, 0.9, 0.2)
        ((3, 8), (0, 9))
    """
    kept = int(count * density)
    high = count - min(int(count * gamma), count - kept)
    return high - kept, high


@cache
def _end(places: Places, end: int, by_row: bool) -> Callable[[Sequence[Numbers]], list[Number]]:
    """For each tensor and model where what is kept begins (0) or ends (1)."""

    def of(tensor: Numbers) -> Number:
        if by_row and not tensor.shape:
            return tuple(float(end) for _ in tensor.each("density"))  # a lone number is kept
        count = tensor.shape[-1] if by_row else tensor.size
        models = zip(tensor.each("density"), tensor.each("gamma"), strict=True)
        return tuple(float(places(count, density, gamma)[end]) for density, gamma in models)

    return lambda tensors: [of(tensor) for tensor in tensors]


def _place(count: int, place: float) -> int:
    return int(place)


_BETWEEN = (
    Statistic("above", magnitude, Rank(_place, by="low"), each=True),
    Statistic("up_to", magnitude, Rank(_place, by="high"), each=True),
)


@final
class Breadcrumbs(Sparsifier):
    r"""Leave out the largest changes, which harm the other models, and the smallest, which say little.

    In each row of n parameters (the last dimension; a vector is one row), ordered by the magnitude of the change:

    .. math::
        \hat\delta_j = \delta_j \text{ if } n - t - k \le \operatorname{rank}_j < n - t \text{ else } 0, \qquad
        t = \lfloor \gamma n \rfloor, \quad k = \lfloor \beta n \rfloor, \qquad
        \theta = \theta_0 + \lambda \sum_i w_i \hat\delta_i

    Alone it adds the changed task vectors; `before:` another method it changes the task vectors which that merges.

    `density` is the official code's beta, the share of a row that is **kept**; the paper's beta is the share that is
    not. A row too short for gamma n to reach 1 loses none of its largest; a tensor of no dimension is kept as it is.
    Of equal magnitudes the earlier has the lower place. `remove_first: false` chooses the k largest first and then
    leaves out the t largest of these, so that k - t are left.

    `scope: tensor` takes a tensor as one row, and leaves out fewer of the largest where beta and gamma exceed 1 in
    all, as mergekit 0.1.5 does. It goes by magnitude there: of equal ones all are kept or none, where mergekit keeps
    as many as it counted.

    Source: Davari and Belilovsky 2023, *Model Breadcrumbs* (arXiv 2312.06795), section 3, and the official code, with
    beta and gamma where its search begins; its lambda begins at 0.2.

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"w": np.zeros(5)}, {"w": np.array([3.0, -9.0, 1.0, -4.0, 2.0])}
        >>> weft.merge([tuned], base=base, method="breadcrumbs", density=0.4, gamma=0.2)["w"]
        array([ 3.,  0.,  0., -4.,  0.])
    """

    name: ClassVar = "breadcrumbs"
    title: ClassVar = "leave out the largest and the smallest changes"
    formula: ClassVar = "θ = θ₀ + λ Σ wᵢ δ̂ᵢ;  δ̂ is δ without the smallest and the largest of each row"
    source: ClassVar = "Davari and Belilovsky 2023, arXiv 2312.06795"
    laws: ClassVar = {
        Law.COPIES: {"density": 1.0, "gamma": 0.0, "weight": [0.5, 0.25, 0.25]},
        Law.ORDER: {},
        Law.ZERO_DELTAS: {},
        Law.SCALING: {},
    }

    density: PerModel[Fraction] = parameter(0.15, "share of each row that is kept (beta)")
    gamma: PerModel[Fraction] = parameter(0.006, "share of each row that is left out because it is largest")
    remove_first: bool = parameter(True, "leave out the largest before the rest is chosen")
    scope: Literal["row", "tensor"] = parameter("row", "what is put in order")

    def change(self) -> Change:
        """Where the kept begin and end, and the kept."""
        by_row = self.scope == "row"
        first = top_first if by_row else top_as_room_allows
        places = first if self.remove_first else top_last
        ends = (Derived("low", _end(places, 0, by_row)), Derived("high", _end(places, 1, by_row)))
        values = {"density": self.density, "gamma": self.gamma}
        if by_row:
            return Change(in_row, ranking=magnitude, statistics=ends, values=values)
        return Change(in_tensor, statistics=(*ends, *_BETWEEN), values=values)
