"""Model Breadcrumbs: mask the largest and the smallest entries of the task vectors (arXiv 2312.06795)."""

import numpy as np

from tests.references.common import Array, State, change, merged_from, of_rows, total


def without_largest(row: Array, count: int) -> Array:
    """Zero the `count` largest magnitudes; of equal ones the later go first."""
    result = row.copy()
    result[np.argsort(np.abs(row), kind="stable")[len(row) - count :]] = 0.0
    return result


def only_largest(row: Array, count: int) -> Array:
    """Zero all but the `count` largest magnitudes; of equal ones the later stay."""
    result = row.copy()
    result[np.argsort(np.abs(row), kind="stable")[: len(row) - count]] = 0.0
    return result


def masked_row(row: Array, keep: float, remove: float, remove_first: bool) -> Array:
    """Take the int(n * remove) largest away, then keep the int(n * keep) largest of what is left, or the reverse.

    In the reverse order both count from the top, so that int(n * keep) - int(n * remove) entries stay.
    """
    kept, removed = min(len(row), int(len(row) * keep)), min(len(row), int(len(row) * remove))
    if remove_first:
        return only_largest(without_largest(row, removed), kept)
    return without_largest(only_largest(row, kept), removed)


def masked(tau: Array, keep: float, remove: float, remove_first: bool = True) -> Array:
    """Mask every row along the last axis; a lone number is left as it is."""
    if tau.ndim == 0:
        return tau
    return of_rows(lambda row: masked_row(row, keep, remove, remove_first), tau)


def breadcrumbs(
    base: State,
    models: list[State],
    *,
    keep: list[float],
    remove: list[float],
    weight: list[float],
    scale: float,
    remove_first: bool = True,
) -> State:
    """Base plus `scale` times the weighted sum of the masked task vectors.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        keep: the official beta, share of a row that stays.
        remove: the official gamma, share of a row that is taken away from the top.
        weight: factor of each task vector (1 in the official code).
        scale: the official alpha.
        remove_first: whether the top is taken away before the rest is chosen.

    """
    changes = [
        {name: masked(tau, keep[i], remove[i], remove_first) for name, tau in change(base, model).items()}
        for i, model in enumerate(models)
    ]
    return merged_from(base, total(changes, weight), scale)
