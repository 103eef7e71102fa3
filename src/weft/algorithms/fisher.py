"""Fisher merging: an average in which every model counts, parameter by parameter, by what its data say about it."""

from __future__ import annotations

from math import frexp, ldexp, sqrt
from typing import Annotated, Any, ClassVar, final

from pydantic import model_validator

from weft.algorithms.method import Law, Method, NonNegative, PerModel, Tensors, parameter
from weft.algorithms.program import Note, Program, Statistic, Total
from weft.kernels.element import element

Reals = tuple[float, ...]


@element
def precision(fisher: float, weight: float, norm: float, floor: float) -> float:
    """How much one model's value counts."""
    return weight * max(fisher, floor) / norm if norm > 0.0 else weight * max(fisher, floor)


@element
def information(fisher: Reals, weight: Reals, norm: Reals, floor: Reals) -> float:
    """How much all models together know about one parameter."""
    total = 0.0
    for f, w, length, low in zip(fisher, weight, norm, floor):
        total += precision(f, w, length, low)
    return total


@element
def fisher_average(tuned: Reals, fisher: Reals, weight: Reals, norm: Reals, floor: Reals) -> float:
    """One parameter: the models' values, averaged by weight times Fisher information; by weight alone if nobody knows.

    Args:
        tuned: the value in each model.
        fisher: its diagonal Fisher information in each model.
        weight: factor of each model.
        norm: length of each model's whole Fisher.
        floor: smallest Fisher that counts, for each model.

    Example:
        >>> fisher_average((0.0, 1.0), fisher=(1.0, 3.0), weight=(1.0, 1.0), norm=(1.0, 1.0), floor=(0.0, 0.0))
        0.75
    """
    total = 0.0
    plain = 0.0
    mass = 0.0
    for theta, f, w, length, low in zip(tuned, fisher, weight, norm, floor):
        total += precision(f, w, length, low) * theta
        plain += w * theta
        mass += w
    known = information(fisher, weight, norm, floor)
    return total / known if known > 0.0 else plain / mass


@element
def knows_nothing(fisher: Reals, weight: Reals, norm: Reals, floor: Reals) -> bool:
    """Whether no model with a weight has information about this parameter."""
    return not information(fisher, weight, norm, floor) > 0.0


@element
def squared(fisher: float) -> float:
    """The square of a Fisher entry."""
    return fisher * fisher


def _near_one(weights: tuple[float, ...]) -> tuple[float, ...]:
    """The weights times a power of two, so that the largest is near 1 and no product vanishes: only ratios matter."""
    exponent = frexp(max(weights))[1]
    return tuple(ldexp(weight, -exponent) for weight in weights)


def _root(total: float, count: int) -> float:
    return sqrt(total)


_NORM = Statistic("norm", squared, Total(_root), each=True, known=("fisher", "norm"), double=True)
_ISOTROPIC = "no model has a Fisher, so this is the weighted mean; give each model its `fisher`"


@final
class Fisher(Method):
    r"""Average the models, each parameter weighted by each model's diagonal Fisher information.

    .. math::
        \theta_j = \frac{\sum_i c_i F'_{ij} \theta_{ij}}{\sum_i c_i F'_{ij}}, \qquad
        c_i = \frac{w_i}{\lVert F_i \rVert_2}, \qquad F'_{ij} = \max(F_{ij}, \mathrm{floor})

    A Fisher is a file (in Python also a dict) of tensors with the checkpoint's names, the mean over examples of the
    squared gradient of the log-likelihood. A model without one counts as isotropic, F = 1; when none has one, this is
    the weighted mean. The norm is that of the unfloored Fisher over all merged tensors, or `norm` in the file's
    metadata. The floor is in the Fisher's own units and, with `favor_target`, holds for the first model only, so that
    its value wins where nobody knows anything: **the order of the models matters** then. The official code does so
    because its first model is the one to be improved; set `favor_target: false` when all models are equals.

    Where the official code divides 0 by 0 and writes NaN (no model with a weight has information), this writes the
    weighted mean of the models and reports how often.

    Source: Matena and Raffel 2022, *Merging Models with Fisher-Weighted Averaging* (arXiv 2111.09832), section 3,
    equation 5, and the official code.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([0.0, 4.0])}, {"w": np.array([1.0, 0.0])}
        >>> f, g = {"w": np.array([1.0, 3.0])}, {"w": np.array([3.0, 1.0])}
        >>> weft.merge([a, b], method="fisher", fisher=[f, g])["w"]
        array([0.75, 3.  ])
    """

    name: ClassVar = "fisher"
    title: ClassVar = "average weighted by Fisher information"
    formula: ClassVar = "θ = Σ cᵢ F'ᵢ θᵢ / Σ cᵢ F'ᵢ;  cᵢ = wᵢ / ‖Fᵢ‖;  F'ᵢ = max(Fᵢ, floor)"
    source: ClassVar = "Matena and Raffel 2022, arXiv 2111.09832"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {"favor_target": False}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    fisher: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "the model's diagonal Fisher: a file of tensors; none means isotropic"
    )
    weight: PerModel[NonNegative] = parameter(1.0, "factor of each model")
    normalize: bool = parameter(True, "divide each Fisher by its norm over the whole model")
    floor: NonNegative = parameter(1e-6, "smallest Fisher that counts, in the Fisher's own units")
    favor_target: bool = parameter(True, "apply the floor to the first model only")

    @model_validator(mode="after")
    def _somebody_counts(self) -> Fisher:
        if not any(self.weight):
            raise ValueError("all weights are 0, so there is nothing to average; give one model a weight")
        return self

    def program(self) -> Program:
        """The norms that no file's metadata tells, then the map."""
        donors = len(self.weight) - 1
        return Program(
            fisher_average,
            statistics=(_NORM,) if self.normalize else (),
            values={
                "weight": _near_one(self.weight),
                "norm": (1.0,) * (donors + 1),
                "floor": (self.floor, *([0.0 if self.favor_target else self.floor] * donors)),
            },
            auxiliary={"fisher": self.fisher},
            whole_model=True,
            relative=True,
            remarks=() if any(f is not None for f in self.fisher) else (_ISOTROPIC,),
            nonnegative=frozenset({"fisher"}),
            note=Note(knows_nothing, "no model has information about {count} parameters; they are the weighted mean"),
        )
