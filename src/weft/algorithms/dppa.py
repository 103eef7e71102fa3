"""DPPA: prune each layer as its outliers suggest, and enlarge what is left, the most important part the most."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, final

from weft.algorithms.method import Fraction, Law, NonNegative, PerModel, parameter
from weft.algorithms.program import Change, Derived, Number, Numbers, Rank, Statistic, Total
from weft.algorithms.rescaling import magnitude
from weft.algorithms.sparsifier import Sparsifier
from weft.kernels.element import Scalar, element

_OF_LAYER = 3.0
"""How many times the mean magnitude makes an outlier of a layer; the official code knows no other."""


@element
def amplified(
    base: float,
    tuned: float,
    sparse_threshold: float,
    dense_threshold: float,
    sparse_factor: float,
    dense_factor: float,
) -> float:
    """One model's change of one parameter: the larger of what two prunings keep, each enlarged; of equals the first.

    Example:
        >>> [amplified(0.0, x, 3.0, 1.0, sparse_factor=2.0, dense_factor=1.5) for x in (4.0, -2.0, 1.0)]
        [8.0, -3.0, 0.0]
    """
    delta = tuned - base
    one = sparse_factor * delta if abs(delta) > sparse_threshold else 0.0
    other = dense_factor * delta if abs(delta) > dense_threshold else 0.0
    return one if abs(one) >= abs(other) else other


@element
def outlier_of_layer(base: float, tuned: float, limit_of_layer: float) -> float:
    """Whether a change is an outlier of its layer."""
    return 1.0 if abs(tuned - base) > limit_of_layer else 0.0


@element
def outlier_of_tensor(base: float, tuned: float, limit_of_tensor: float) -> float:
    """Whether a change is an outlier of its tensor."""
    return 1.0 if abs(tuned - base) > limit_of_tensor else 0.0


def layer_of(name: str) -> str:
    """The layer that a tensor is in: its name up to the first number; empty if there is none.

    Example:
        >>> layer_of("model.layers.3.mlp.experts.7.up_proj.weight"), layer_of("lm_head.weight")
        ('model.layers.3', '')
    """
    found = re.match(r"(?:.*?\.)??\d+(?=\.)", name)
    return found[0] if found else ""


def is_pruned(tensor: Numbers) -> bool:
    """Whether it is a linear weight inside a layer: a matrix, with a number in its name."""
    return len(tensor.shape) == 2 and tensor.size > 0 and bool(layer_of(tensor.name))


def densities(pruned: Sequence[Numbers], model: int, sparsity: str) -> list[float]:
    """How much of each linear weight is kept: what its layer's outliers say, and what its own add.

    Args:
        pruned: the tensors that are pruned, with the numbers of outliers in them.
        model: whose change.
        sparsity: the name of the share that shall be dropped of all together.
    """
    layers = _layers(pruned)
    percent = [_percent(layer, "outliers_of_layer", model) for layer in layers.values()]
    mean = _mean(percent)
    of_layer = dict(zip(layers, deviations([p - mean for p in percent]), strict=True))
    own = [_percent([tensor], "outliers_of_tensor", model) for tensor in pruned]
    mean = _mean(own) or 1.0
    middle = sum(p / mean * t.size for p, t in zip(own, pruned, strict=True)) / _size(pruned)
    both = zip(pruned, deviations([p / mean - middle for p in own]), strict=True)
    return [1.0 - t.of(sparsity, model) + t.of("spread", model) * (of_layer[layer_of(t.name)] + d) for t, d in both]


def deviations(shares: Sequence[float]) -> list[float]:
    """Deviations as parts of the largest; none where all are 0.

    Example:
        >>> deviations([1.0, -2.0]), deviations([0.0, 0.0])
        ([0.5, -1.0], [0.0, 0.0])
    """
    largest = max(map(abs, shares), default=0.0)
    return [share / largest if largest > 0.0 else 0.0 for share in shares]


def _layers(tensors: Iterable[Numbers]) -> dict[str, list[Numbers]]:
    layers: dict[str, list[Numbers]] = {}
    for tensor in tensors:
        layers.setdefault(layer_of(tensor.name), []).append(tensor)
    return layers


def _percent(tensors: Sequence[Numbers], outliers: str, model: int) -> float:
    return 100 * sum(tensor.of(outliers, model) for tensor in tensors) / _size(tensors)


def _size(tensors: Iterable[Numbers]) -> int:
    return sum(tensor.size for tensor in tensors)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


PerTensor = Callable[[Sequence[Numbers], int], list[float]]
"""From the tensors that are pruned, and the model, to a number for each of them."""


def _of_pruned(compute: PerTensor) -> Callable[[Sequence[Numbers]], list[Number]]:
    """The same for all tensors and models: 0 for a tensor that is not pruned."""

    def every(tensors: Sequence[Numbers]) -> list[Number]:
        models = range(len(tensors[0].each("total")))
        pruned = [tensor for tensor in tensors if is_pruned(tensor)]
        found = [compute(pruned, model) if pruned else [] for model in models]
        numbers = {tensor.name: own for tensor, *own in zip(pruned, *found, strict=True)}
        return [tuple(numbers.get(tensor.name, [0.0] * len(models))) for tensor in tensors]

    return every


def _limits_of_layers(pruned: Sequence[Numbers], model: int) -> list[float]:
    """The magnitude from which on a change is an outlier of its layer."""
    means = {name: sum(t.of("total", model) for t in layer) / _size(layer) for name, layer in _layers(pruned).items()}
    return [_OF_LAYER * means[layer_of(tensor.name)] for tensor in pruned]


def _limits_of_tensors(pruned: Sequence[Numbers], model: int) -> list[float]:
    """The magnitude from which on a change is an outlier of its tensor."""
    return [tensor.of("outliers", model) * tensor.of("total", model) / tensor.size for tensor in pruned]


def _dropped(sparsity: str) -> PerTensor:
    """How many of the smallest changes are dropped, one at least."""
    return lambda pruned, model: [
        _count(tensor.size, density) for tensor, density in zip(pruned, densities(pruned, model, sparsity), strict=True)
    ]


def _count(size: int, density: float) -> float:
    kept = min(max(density, 1 / size), 1.0)
    return float(min(int(size * (1 - kept)), size - 1) + 1)


def _sum(total: float, count: int) -> float:
    return total


def _place(count: int, place: float) -> int:
    return int(place)


def _by_tensor(name: str, expression: Scalar, fold: Total | Rank) -> Statistic:
    return Statistic(name, expression, fold, each=True, by_tensor=True)


_STATISTICS = (
    _by_tensor("total", magnitude, Total(_sum)),
    Derived("limit_of_layer", _of_pruned(_limits_of_layers)),
    Derived("limit_of_tensor", _of_pruned(_limits_of_tensors)),
    _by_tensor("outliers_of_layer", outlier_of_layer, Total(_sum)),
    _by_tensor("outliers_of_tensor", outlier_of_tensor, Total(_sum)),
    Derived("dropped_by_sparse", _of_pruned(_dropped("sparse"))),
    Derived("dropped_by_dense", _of_pruned(_dropped("dense"))),
    _by_tensor("sparse_threshold", magnitude, Rank(_place, by="dropped_by_sparse")),
    _by_tensor("dense_threshold", magnitude, Rank(_place, by="dropped_by_dense")),
)


@final
class Dppa(Sparsifier):
    r"""Prune each linear weight as the outliers in it suggest, twice, and enlarge the two parts that are kept.

    For every linear weight j inside a layer l (a matrix with a number in its name; the name up to there is the layer)
    the density is, for sparsities s (`sparse`, then `dense`),

    .. math::
        D_j = 1 - s + \lambda \left( \frac{a_l - \bar a}{\max_k |a_k - \bar a|}
              + \frac{b_j - \bar b}{\max_k |b_k - \bar b|} \right)

    where a is the share of changes of a layer whose magnitude is above 3 times the layer's mean, and b that of a
    weight above `outliers` times its own; the mean of a is over layers, that of b is weighted by parameters. The
    int(n (1 - D)) + 1 smallest changes of its n are dropped, and those tied with the largest of them. Then

    .. math::
        \hat\delta = \text{the larger in magnitude of } r_1 \delta^{(\mathrm{sparse})}
        \text{ and } r_2 \delta^{(\mathrm{dense})}, \qquad \theta = \theta_0 + \lambda' \sum_i w_i \hat\delta_i

    with the factors r and the method's `scale` for lambda'. All other tensors (embeddings, norms, heads, biases, and
    experts that are stacked in one tensor) keep their whole change, times the larger factor.

    The paper searches the factors for each expert on evaluation data: first r_1 from 1.8 on with r_2 = 0, then r_2
    from 1 on, in steps of 0.1; give the ones found for each model. Densities are held between 1/n and 1, and equal
    shares of outliers deviate by nothing, where the official code fails. How several experts are merged is not in the
    official code: adding them is our reading of it. `before:` another method it changes the task vectors alone.

    Source: Zhu et al. 2024, *DPPA: Pruning Method for Large Language Model to Model Merging* (arXiv 2403.02799),
    and the official code.

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"layers.0.w": np.zeros((2, 5))}, {"layers.0.w": np.arange(10.0).reshape(2, 5)}
        >>> weft.merge([tuned], base=base, method="dppa", sparse=0.8, dense=0.6, sparse_factor=2)["layers.0.w"]
        array([[ 0.,  0.,  0.,  0.,  0.],
               [ 0.,  0.,  7.,  8., 18.]])
    """

    name: ClassVar = "dppa"
    title: ClassVar = "prune by outliers, enlarge what is kept"
    formula: ClassVar = "θ = θ₀ + λ Σ wᵢ δ̂ᵢ;  δ̂ = the larger of r₁ δ pruned to D(s₁) and r₂ δ pruned to D(s₂)"
    source: ClassVar = "Zhu et al. 2024, arXiv 2403.02799"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    sparse: PerModel[Fraction] = parameter(0.9, "share that the sparser of the two prunings drops")
    dense: PerModel[Fraction] = parameter(0.8, "share that the denser of the two prunings drops")
    sparse_factor: PerModel[NonNegative] = parameter(1.8, "factor of what the sparser pruning keeps (r1)")
    dense_factor: PerModel[NonNegative] = parameter(1.0, "factor of what the denser pruning keeps (r2)")
    spread: Fraction = parameter(0.08, "largest deviation of a layer's density, and of a weight's in it (lambda)")
    outliers: NonNegative = parameter(5.0, "how many times its mean magnitude makes an outlier of a weight")

    def change(self) -> Change:
        """Limits, outliers, densities, thresholds, and the parts that are kept."""
        values: dict[str, Number] = {
            "sparse": self.sparse,
            "dense": self.dense,
            "sparse_factor": self.sparse_factor,
            "dense_factor": self.dense_factor,
            "spread": self.spread,
            "outliers": self.outliers,
        }
        return Change(amplified, statistics=_STATISTICS, values=values, whole_model=True)
