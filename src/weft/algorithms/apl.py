"""APL: how much of each part of a task vector is dropped, and what it weighs, follow from how much the part matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import exp
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import model_validator

from weft.algorithms.dare import dare
from weft.algorithms.dppa import layer_of
from weft.algorithms.method import Fraction, Integer, Law, PerModel, Positive, Tensors, parameter
from weft.algorithms.program import Change, Derived, Number, Numbers, Statistic, Total
from weft.algorithms.sparsifier import Sparsifier
from weft.kernels.element import element

_MOST = 0.99
"""The largest share of a part that is dropped."""

Partition = Literal["layer", "tensor", "model"]
Evidence = Literal["gradient", "importance"]
"""What is known of the parameters: each a parameter of the method, and what a command of its name measures."""


@element
def effect(base: float, tuned: float, gradient: float) -> float:
    """What one model's change of one parameter does to the loss, to first order."""
    return (tuned - base) * gradient


@element
def told(importance: float) -> float:
    """How much one parameter matters, as it was given."""
    return importance


def part_of(name: str, partition: Partition) -> str:
    """What a tensor is a part of: its layer, or itself outside of layers; itself; or the model.

    Example:
        >>> part_of("layers.3.up", "layer"), part_of("head", "layer"), part_of("layers.3.up", "model")
        ('layers.3', 'head', '')
    """
    return {"layer": layer_of(name) or name, "tensor": name, "model": ""}[partition]


def softmax(values: Sequence[float], temperature: float) -> list[float]:
    """Shares that grow with the values.

    Example:
        >>> softmax([1.0, 1.0], 0.1), softmax([0.0, 1000.0], 0.1)
        ([0.5, 0.5], [0.0, 1.0])
    """
    largest = max(values)
    grown = [exp((value - largest) / temperature) for value in values]
    return [one / sum(grown) for one in grown]


def importances(tensors: Sequence[Numbers], partition: Partition, evidence: Evidence) -> dict[str, list[float]]:
    """How much each part matters to each model.

    Args:
        tensors: with the sum over each tensor, `sum`, of effects or of importances.
        partition: what the parts are.
        evidence: whether a part's importance is the size of the sum over it, or the mean.
    """
    sums: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for tensor in tensors:
        part, own = part_of(tensor.name, partition), tensor.each("sum")
        sums[part] = [one + more for one, more in zip(sums.get(part, [0.0] * len(own)), own, strict=True)]
        sizes[part] = sizes.get(part, 0) + tensor.size
    if evidence == "gradient":
        return {part: [abs(one) for one in own] for part, own in sums.items()}
    return {part: [one / max(sizes[part], 1) for one in own] for part, own in sums.items()}


Compute = Callable[[Sequence[Numbers]], Sequence[Number]]


@cache
def _drops(partition: Partition, evidence: Evidence) -> Compute:
    """For each tensor and model the share that is dropped."""

    def compute(tensors: Sequence[Numbers]) -> list[Number]:
        known = importances(tensors, partition, evidence)

        @cache
        def shares(model: int, temperature: float) -> dict[str, float]:
            return dict(zip(known, softmax([-own[model] for own in known.values()], temperature), strict=True))

        def dropped(tensor: Numbers, model: int) -> float:
            share = shares(model, tensor.of("drop_temperature", model))[part_of(tensor.name, partition)]
            return min(tensor.of("mean_drop", model) * len(known) * share, _MOST)

        return [tuple(dropped(tensor, model) for model in range(len(tensor.each("sum")))) for tensor in tensors]

    return compute


@cache
def _factors(partition: Partition, evidence: Evidence) -> Compute:
    """For each tensor and model what makes up for what is dropped, times the model's weight among the models."""

    def compute(tensors: Sequence[Numbers]) -> list[Number]:
        known = importances(tensors, partition, evidence)

        def factors(tensor: Numbers) -> Number:
            own = known[part_of(tensor.name, partition)]
            weights = softmax(own, tensor.of("weight_temperature", 0))
            return tuple(len(own) * w / (1.0 - p) for w, p in zip(weights, tensor.each("drop"), strict=True))

        return [factors(tensor) for tensor in tensors]

    return compute


def _sum(total: float, count: int) -> float:
    return total


@final
class Apl(Sparsifier):
    r"""Drop more of the parts of a task vector that matter less, and let the models that matter more weigh more.

    A part p is a layer (all tensors whose names are the same up to the first number; a tensor outside of layers is one
    by itself), a tensor, or the model. How much it matters to model i is, from the gradient of its loss at the base,

    .. math::
        I_{ip} = \Big| \sum_{j \in p} \delta_{ij} \frac{\partial L_i}{\partial \theta_j} \Big|

    (`gradient`), or the mean of the importances that are given for its parameters (`importance`). With P parts and
    T models

    .. math::
        p_{ip} = \min\big(\bar p\, P\, \operatorname{softmax}_p(-I_{ip} / \tau_1),\ 0.99\big), \qquad
        a_{ip} = T\, \operatorname{softmax}_i(I_{ip} / \tau_2), \qquad
        \hat\delta_{ij} = \frac{a_{ip}\, m_{ij}\, \delta_{ij}}{1 - p_{ip}}, \quad
        m_{ij} \sim \operatorname{Bernoulli}(1 - p_{ip})

    Alone it adds the changed task vectors; `before:` another method it changes the task vectors which that merges.

    **What is from the paper and what is not.** From the paper: that importance is the effect of putting a part of the
    task vector into the base, on a few examples; that it decides drop ratios and merging weights; that the product
    with the gradient approximates it; parts of several sizes; two temperatures. The paper has no code, and its text
    does not tell the formulas for the drop ratios and the weights: the two softmaxes, the bound of 0.99 and dropping
    at random within a part are **reconstructed**. Its finest part, the hidden state (a row of a matrix), is not here: a
    row's ratio is a share among all rows of the model, and its weights compare the models row by row, while what
    changes a task vector here sees one model at a time, and knows of other parameters one number for each tensor.

    Importances and temperatures are in units of the loss: with large temperatures this is DARE with `drop` for p.
    Without `gradient` and `importance` it is just that. Each is for every model a file (in Python also a dict) of
    tensors with the checkpoint's names. `weft gradient` measures the mean gradient over a few examples of the model's
    task **at the base**; `weft importance`, by intervention, how far the base's loss falls with each part. A tensor of
    importances without dimensions holds for all of its parameters. Interventions tell parts that help from those that
    harm, whose importance is below zero; gradients only tell how much a part changes. What is random depends on nothing
    but `seed`, the model's position, the tensor's name and the parameter's index.

    Source: after Kong et al. 2024, *Activated Parameter Locating via Causal Intervention for Model Merging* (arXiv
    2408.09485).

    Example:
        >>> import numpy as np, weft
        >>> base = {"w": np.zeros(2)}
        >>> tuned, gradient = [{"w": np.array([1.0, 2.0])}, {"w": np.ones(2)}], {"w": np.ones(2)}
        >>> weft.merge(tuned, base=base, method="apl", drop=0, gradient=[gradient] * 2, weight_temperature=0.01)["w"]
        array([2., 4.])
    """

    name: ClassVar = "apl"
    title: ClassVar = "drop and weigh by importance"
    formula: ClassVar = (
        "θ = θ₀ + λ Σ wᵢ aᵢ mᵢ δᵢ / (1 - pᵢ);  p = p̄ P softmax(-I / τ₁) over parts,  a = T softmax(I / τ₂)"
    )
    source: ClassVar = "after Kong et al. 2024, arXiv 2408.09485"
    laws: ClassVar = {
        Law.ORDER: {"drop": 0.0},
        Law.COPIES: {"drop": 0.0, "weight": [0.5, 0.25, 0.25]},
        Law.ZERO_DELTAS: {},
        Law.SCALING: {},
    }

    drop: PerModel[Fraction] = parameter(0.5, "share of each task vector that is dropped, on average over parts")
    gradient: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "the gradient of the model's loss at the base: a file of tensors"
    )
    importance: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "in its place, how much parts matter to the model: a file of tensors, or of a number for each tensor"
    )
    partition: Partition = parameter("layer", "what the parts are")
    drop_temperature: Positive = parameter(
        1.0, "importance by which a part's drop ratio falls to 1/e of another's (tau1)"
    )
    weight_temperature: Positive = parameter(
        1.0, "importance by which a model's weight in a part grows to e times another's (tau2)"
    )
    seed: Integer = parameter(0, "of the draws")

    @model_validator(mode="after")
    def _one_kind_for_all_or_none(self) -> Apl:
        given = self._given()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} tell the same; give one of them")
        for kind, files in given.items():
            if any(file is None for file in files):
                what = f"some models have {'an' if kind == 'importance' else 'a'} {kind} and others have none"
                raise ValueError(f"{what}; give it for every model, or for none")
        return self

    def _given(self) -> dict[Evidence, tuple[Any, ...]]:
        """What is known of the parameters: nothing, or the files of one kind."""
        kinds: dict[Evidence, tuple[Any, ...]] = {"gradient": self.gradient, "importance": self.importance}
        return {kind: files for kind, files in kinds.items() if any(file is not None for file in files)}

    def change(self) -> Change:
        """Importances, what follows from them, and what is kept."""
        given = self._given()
        if not given:
            drops = tuple(min(p, _MOST) for p in self.drop)
            return Change(dare, values={"drop": drops, "factor": tuple(1 / (1 - p) for p in drops)}, seed=self.seed)
        [(kind, files)] = given.items()
        expression = effect if kind == "gradient" else told
        return Change(
            dare,
            statistics=(
                Statistic("sum", expression, Total(_sum), each=True, by_tensor=True, double=True),
                Derived("drop", _drops(self.partition, kind)),
                Derived("factor", _factors(self.partition, kind)),
            ),
            values={
                "mean_drop": self.drop,
                "drop_temperature": self.drop_temperature,
                "weight_temperature": self.weight_temperature,
            },
            auxiliary={kind: files},
            whole_model=True,
            at_base=frozenset({"gradient"}),
            spread=frozenset({"importance"}),
            seed=self.seed,
        )
