"""DELLA: drop small entries of the task vectors more often than large ones (arXiv 2406.11617)."""

import numpy as np

from tests.references.common import Array, Mask, State, change, of_rows
from tests.references.fusing import fuse


def ranks(row: Array) -> Array:
    """0 for the smallest magnitude, n - 1 for the largest; of equal magnitudes the earlier has the lower rank.

    The official code leaves the order of ties to its sort; the golden cases have none.
    """
    result = np.empty(len(row))
    result[np.argsort(np.abs(row), kind="stable")] = np.arange(len(row))
    return result


def by_rank(row: Array, density: float, epsilon: float) -> Array:
    """Keep probabilities of a row: from density - epsilon to density + epsilon, linear in the rank.

    `epsilon` is half of the paper's window; the paper divides the rank by n, the code by n - 1. A row of one entry,
    0/0 in the official code, is kept with the density.
    """
    if len(row) == 1:
        return np.full(1, density)
    return (density - epsilon) + 2 * epsilon * ranks(row) / (len(row) - 1)


def by_value(row: Array, density: float, epsilon: float) -> Array:
    """Keep probabilities of a row that grow with the magnitude itself instead of its rank."""
    size = np.abs(row)
    place = (size - size.min()) / (size.max() - size.min() + 1e-7)
    return (density - epsilon) + 2 * epsilon * place


def keep_probabilities(tau: Array, density: float, epsilon: float, by: str = "row") -> Array:
    """Keep probabilities of a tensor: by rank in the `row` or in the `tensor`, or by `value` in the row.

    A tensor of one dimension is one row. From density 1 on everything is kept.
    """
    if density >= 1:
        return np.ones(tau.shape)
    if by == "tensor":
        return by_rank(tau.reshape(-1), density, epsilon).reshape(tau.shape)
    rule = {"row": by_rank, "value": by_value}[by]
    return of_rows(lambda row: rule(row, density, epsilon), tau)


def largest_of_rows(tau: Array, density: float) -> Array:
    """Keep the int(n * density) largest magnitudes of every row."""

    def keep(row: Array) -> Array:
        return np.where(ranks(row) >= len(row) - int(len(row) * density), row, 0.0)

    return of_rows(keep, tau)


def pruned(tau: Array, keep: Mask, probability: Array, rescale: bool = True) -> Array:
    """What the mask keeps, each entry divided by its own keep probability."""
    kept = np.where(keep, tau, 0.0)
    return kept / np.where(keep, probability, 1.0) if rescale else kept


def della(
    base: State,
    models: list[State],
    *,
    masks: list[State],
    density: list[float],
    epsilon: list[float],
    weight: list[float],
    scale: float = 1.0,
    rescale: bool = True,
    elect: bool = True,
    normalize: bool = True,
) -> State:
    """Prune by magnitude ranks within rows, elect, divide by the weights that agree, scale.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        masks: what each model keeps, drawn with `keep_probabilities`.
        density: mean keep probability of each model.
        epsilon: half of the spread of the keep probabilities.
        weight: factor of each task vector.
        scale: the paper's lambda.
        rescale: whether to divide what is kept by its keep probability.
        elect: whether only entries with the elected sign count.
        normalize: whether to divide by the weights that counted.

    """
    changes: list[State] = []
    for i, model in enumerate(models):
        delta: State = {}
        for name, tau in change(base, model).items():
            probability = keep_probabilities(tau, density[i], epsilon[i])
            delta[name] = pruned(tau, masks[i][name], probability, rescale)
        changes.append(delta)
    return fuse(base, changes, weight, scale=scale, elect=elect, normalize=normalize)
