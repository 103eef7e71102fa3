"""SCE: select by variance, calculate coefficients by energy, erase minority signs (arXiv 2408.07990; mergekit)."""

import numpy as np

from tests.references.common import Array, Mask, State, add_up, change, merged_from


def most_varied(taus: Array, share: float) -> Mask:
    """The int(share * c) positions of largest variance over the models, c counting those where it is not 0.

    From share 1 on all positions are selected, those of no variance too, so that copies of one model give it back.
    """
    if share >= 1:
        return np.full(taus.shape[1:], True)
    variance = np.mean((taus - add_up(taus) / len(taus)) ** 2, axis=0).reshape(-1)
    count = int(share * np.count_nonzero(variance)) if share > 0 else 0
    chosen = np.full(variance.size, False)
    chosen[np.argsort(-variance, kind="stable")[:count]] = True
    return chosen.reshape(taus.shape[1:])


def coefficients(taus: Array, least: float) -> Array:
    """Mean square of each model's change, divided by their sum; all equal where the sum is below `least` (or 0)."""
    energy = np.array([np.mean(tau**2) for tau in taus])
    if energy.sum() < least or energy.sum() == 0:
        return np.full(len(taus), 1 / len(taus))
    return energy / energy.sum()


def agreeing(taus: Array) -> Mask:
    """Where an entry has the sign of the unweighted sum, zero counting as plus; an exact zero never agrees."""
    return np.asarray(np.sign(taus) == np.where(add_up(taus) >= 0, 1.0, -1.0))


def sce_tensor(taus: Array, select: float, least: float) -> Array:
    """The merged change of one tensor."""
    selected = np.where(most_varied(taus, select), taus, 0.0)
    weight = coefficients(selected, least).reshape(-1, *[1] * (taus.ndim - 1)) * np.ones(taus.shape)
    counted = agreeing(selected)
    top = add_up(np.where(counted, weight * selected, 0.0))
    return top / np.maximum(add_up(np.where(counted, weight, 0.0)), 1e-6)


def sce(base: State, models: list[State], *, select: float = 1.0, least: float = 1e-6) -> State:
    """Base plus the SCE mean of the task vectors, one tensor at a time.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        select: share of the varying positions that are kept.
        least: total energy below which mergekit makes all coefficients equal; 0 is the paper.

    """
    changes = [change(base, model) for model in models]
    merged = {name: sce_tensor(np.stack([tau[name] for tau in changes]), select, least) for name in base}
    return merged_from(base, merged)
