"""Consensus merging: keep what matters to at least k tasks (arXiv 2405.10383)."""

import numpy as np

from tests.references.common import Mask, State, add_up, change, merged_from, total


def tall_mask(tau: State, merged: State, share: float) -> dict[str, Mask]:
    """Where a task's change is at least `share` times its distance to the merged change."""
    return {name: np.abs(tau[name]) >= share * np.abs(merged[name] - tau[name]) for name in tau}


def consensus(
    base: State,
    models: list[State],
    *,
    share: list[float],
    agree: int = 2,
    weight: list[float],
    scale: float,
) -> State:
    """Base plus `scale` times the merged change, where at least `agree` masks are set.

    The merged change is the weighted sum of the task vectors (weights 1 in the paper). The masks are made with that
    sum before `scale`: the paper defines them so, and its lambda is a number of its own. With `agree` = 0 this is task
    arithmetic.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        share: the paper's lambda of each task's mask.
        agree: the paper's k.
        weight: factor of each task vector.
        scale: factor of the merged change.

    """
    changes = [change(base, model) for model in models]
    merged = total(changes, weight)
    masks = [tall_mask(tau, merged, limit) for tau, limit in zip(changes, share)]
    kept: State = {}
    for name, value in merged.items():
        votes = add_up(np.stack([mask[name] for mask in masks]).astype(np.float64))
        kept[name] = np.where(votes >= agree, value, 0.0)
    return merged_from(base, kept, scale)
