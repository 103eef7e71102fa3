"""DARE: drop entries of the task vectors at random and enlarge the others (arXiv 2311.03099)."""

import numpy as np

from tests.reference import task_arithmetic, ties
from tests.references.common import Array, Mask, State, change, merged_from


def kept_below(draws: Array, density: float) -> Mask:
    """Keep where a uniform draw from [0, 1) is below the density.

    The official codes differ here (one keeps below the density, one at or above the drop rate), which is the same law
    and another stream; the golden cases store the masks, so that they leave this open.
    """
    return np.asarray(draws < density)


def kept_by_magnitude(tau: Array, drop: float) -> Mask:
    """Drop what is not larger than the k-th smallest magnitude of the tensor, k = int(n * drop), ties included.

    With k = 0 the official code raises; here nothing is dropped.
    """
    count = int(tau.size * drop)
    if count == 0:
        return np.full(tau.shape, True)
    threshold = np.sort(np.abs(tau), axis=None)[count - 1]
    return np.asarray(np.abs(tau) > threshold)


def thinned(tau: Array, keep: Mask, density: float, rescale: bool) -> Array:
    """What the mask keeps, divided by the density; with density 0 nothing is divided."""
    kept = np.where(keep, tau, 0.0)
    return kept / density if rescale and density != 0 else kept


def dare_models(
    base: State,
    models: list[State],
    *,
    density: list[float],
    masks: list[State] | None = None,
    rescale: bool = True,
) -> list[State]:
    """Each model with its task vector thinned and the base added back, for a second merger.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        density: share of the entries that each model keeps.
        masks: what each model keeps; None chooses by magnitude.
        rescale: whether to divide what is kept by the density.

    """
    thin: list[State] = []
    for i, model in enumerate(models):
        delta: State = {}
        for name, tau in change(base, model).items():
            keep = kept_by_magnitude(tau, 1 - density[i]) if masks is None else masks[i][name]
            delta[name] = thinned(tau, keep, density[i], rescale)
        thin.append(merged_from(base, delta))
    return thin


def dare(
    base: State,
    models: list[State],
    *,
    density: list[float],
    weight: list[float],
    scale: float = 1.0,
    masks: list[State] | None = None,
    rescale: bool = True,
) -> State:
    """DARE, then task arithmetic."""
    thin = dare_models(base, models, density=density, masks=masks, rescale=rescale)
    return task_arithmetic(base, thin, weight, scale)


def dare_ties(
    base: State,
    models: list[State],
    *,
    density: list[float],
    weight: list[float],
    trim: list[float],
    scale: float = 1.0,
    masks: list[State] | None = None,
    rescale: bool = True,
) -> State:
    """DARE, then TIES, which trims to the density `trim` over the whole model and takes the mean of what agrees."""
    thin = dare_models(base, models, density=density, masks=masks, rescale=rescale)
    return ties(base, thin, density=trim, weight=weight, scale=scale)
