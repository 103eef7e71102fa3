"""A batch of examples: what its columns are called, how a model is run on it, and what may be wrong with either."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weft.errors import InputError, listed, nearest

Batch = Mapping[str, Tensor]
LABELS = "labels"
IGNORED = -100
"""The label that says that nothing is predicted here."""


def examples(batch: Batch) -> int:
    """How many examples there are.

    Raises:
        InputError: if there are none, or the columns do not agree.

    Example:
        >>> examples({"input": torch.zeros(3, 2)})
        3
    """
    if not batch:
        raise InputError("a batch has no columns", "give a mapping from the names of the model's inputs to tensors")
    lengths = {name: len(column) if column.ndim else 0 for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        what = "the columns of a batch disagree: " + ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise InputError(what, "every column has the examples along its first dimension")
    return next(iter(lengths.values()))


def rows(batch: Batch, chosen: list[int]) -> dict[str, Tensor]:
    """Some examples of a batch."""
    return {name: column[chosen] for name, column in batch.items()}


def called(module: Any, batch: Batch) -> Any:
    """The model's output for everything but the labels, which would only make it compute a loss."""
    inputs = {name: column for name, column in batch.items() if name != LABELS}
    known = inspect.signature(module.forward).parameters
    if "use_cache" in known:
        inputs["use_cache"] = False
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for stranger in () if open_ended else inputs.keys() - known.keys():
        remedy = nearest(stranger, known) or f"its inputs are {listed(known, most=12)}"
        raise InputError(f"{type(module).__name__} takes no {stranger!r}", remedy)
    return module(**inputs)


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: `output.logits`, or the output itself if it is a tensor.

    Raises:
        InputError: if it is neither.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        what = f"the model gives {type(output).__name__}, which has no logits"
        raise InputError(what, "load it with its head, or give the head to an encoder's likelihood")
    return logits


def column(batch: Batch, dimensions: int) -> Tensor | None:
    """The labels, if there are any.

    Raises:
        InputError: if they have another shape, or are no class numbers.
    """
    labels = batch.get(LABELS)
    if labels is None:
        return None
    if labels.ndim != dimensions:
        expected = "one for each example" if dimensions == 1 else "one for each token"
        raise InputError(f"{LABELS} has shape {list(labels.shape)}", f"the labels of this model are {expected}")
    if labels.is_floating_point():
        raise InputError(f"{LABELS} holds real numbers", "give class numbers, or use the likelihood of a regression")
    return labels if dimensions == 2 else labels[:, None]


def mask_of(batch: Batch, like: Tensor, name: str = "attention_mask") -> Tensor:
    """What is not padding, examples x positions; everything without a mask.

    Raises:
        InputError: if the mask has another length than the output.
    """
    mask = batch.get(name)
    if mask is None:
        return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    if mask.shape != like.shape[:2]:
        what = f"{name} has shape {list(mask.shape)} and the model's output {list(like.shape)}"
        raise InputError(what, "choose the likelihood that fits this model")
    return mask.bool()


def counted_of(mask: Tensor, labels: Tensor | None) -> Tensor:
    """What is not padding and, where there are labels, not marked as unpredicted."""
    return mask if labels is None else mask & (labels != IGNORED)


def sequences(logits: Tensor, batch: Batch) -> Tensor:
    """Logits that must be examples x positions x classes."""
    if logits.ndim != 3 or len(logits) != examples(batch):
        what = f"the logits have shape {list(logits.shape)}, not [{examples(batch)}, tokens, classes]"
        raise InputError(what, "choose the likelihood that fits this model")
    return logits
