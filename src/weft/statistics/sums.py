"""Sums over examples that tell something about a model, and that can be saved, restored and added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.errors import InputError, listed
from weft.statistics.batches import Batch, examples


class Estimator(ABC):
    """A mean over examples in the making.

    The sums are in float64 and hold all there is to know: an estimator that is made anew and given them with
    `restore` goes on as if nothing had happened, bit for bit, when the batches that follow are the same.

    Attributes:
        examples: how many were seen.
        tokens: how many of their tokens were not padding; for inputs without tokens, examples.
    """

    def __init__(self, module: Any, wanted: Mapping[str, Any]) -> None:
        if not wanted:
            what = "the model has no parameters to look at"
            raise InputError(what, "let those that were trained require gradients: parameter.requires_grad_()")
        self._module, self._wanted = module, wanted
        self._sums: dict[str, Tensor] = {}
        self.examples = 0
        self.tokens = 0

    def update(self, batch: Batch, first: int) -> None:
        """Take in a batch.

        Args:
            batch: tensors by the names of the model's inputs, with the examples along their first dimension, and
                perhaps `labels`; they are moved to the model's device.
            first: the number of the batch's first example in the data, which random draws depend on.

        Raises:
            InputError: if the batch does not fit the model, or the model gives NaN.
        """
        count = examples(batch)
        if not count:
            raise InputError("a batch has no examples", "leave empty batches out")
        device = next(iter(self._wanted.values())).device
        batch = {name: column.to(device) for name, column in batch.items()}
        self._take(batch, range(first, first + count))
        self._refuse_nan(range(first, first + count))
        self.examples += count
        self.tokens += _tokens(batch)

    @abstractmethod
    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        """Add a batch to the sums."""

    @abstractmethod
    def means(self) -> dict[str, Tensor]:
        """The results in float32, by the names of parameters.

        Raises:
            InputError: if no example was seen.
        """

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know about how it was computed."""
        return ()

    def sums(self) -> dict[str, Tensor]:
        """The sums so far, in float64, by the names of parameters; they go on changing with every update."""
        return dict(self._sums)

    def restore(self, sums: Mapping[str, Tensor], examples: int, tokens: int) -> None:
        """Go on from sums that were saved.

        Raises:
            InputError: if they are those of another model.
        """
        if sums.keys() != self._sums.keys():
            strange = listed(sorted(sums.keys() ^ self._sums.keys()))
            raise InputError(f"saved sums and the model differ in {strange}", "restore the sums of this very model")
        for name, own in self._sums.items():
            if own.shape != sums[name].shape:
                what = f"{name}: the saved sum has shape {list(sums[name].shape)}, the model's {list(own.shape)}"
                raise InputError(what, "restore the sums of this very model")
            own.copy_(sums[name])
        self.examples, self.tokens = examples, tokens

    def _seen(self) -> int:
        if not self.examples:
            raise InputError("no examples were seen, so there is no mean", "give at least one batch")
        return self.examples

    def _refuse_nan(self, numbers: Sequence[int]) -> None:
        fine = torch.stack([total.sum().isfinite() for total in self._sums.values()])
        if not fine.all():
            bad = [name for name, good in zip(self._sums, fine.tolist(), strict=True) if not good]
            what = f"{listed(bad)}: NaN or infinity in examples {numbers[0]} to {numbers[-1]}"
            raise InputError(what, "check the model with `weft verify`, or run it in float32")


def fed(estimator: Estimator, batches: Iterable[Batch]) -> Estimator:
    """An estimator that has taken in all batches, in order."""
    for batch in batches:
        estimator.update(batch, estimator.examples)
    return estimator


def _tokens(batch: Batch) -> int:
    for name in ("attention_mask", "input_ids"):
        if name in batch:
            return int(batch[name].bool().sum()) if name == "attention_mask" else batch[name].numel()
    return examples(batch)
