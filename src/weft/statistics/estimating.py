"""Sums over examples that tell something about a model, and that can be saved, restored and added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, final

import torch
from torch import Tensor

from weft.errors import InputError, listed
from weft.statistics.batches import Batch, examples, mask_of, rows
from weft.statistics.labels import Kind, Labels
from weft.statistics.likelihoods import Likelihood
from weft.statistics.passes import Replan, Scores, Together, evaluated, square_one
from weft.statistics.planning import Plan, distinct, planned
from weft.statistics.trial import disagreeing
from weft.statistics.watching import Owner, owners_of


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
        """The sums so far, in float64, by the names of parameters."""
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


def _tokens(batch: Batch) -> int:
    for name in ("attention_mask", "input_ids"):
        if name in batch:
            return int(batch[name].bool().sum()) if name == "attention_mask" else batch[name].numel()
    return examples(batch)


@final
class FisherEstimator(Estimator):
    r"""The diagonal of the Fisher information of a model's parameters.

    .. math::
        F = \frac{1}{n} \sum_x \sum_y p(y \mid x) \left( \frac{\partial \log p(y \mid x)}{\partial \theta} \right)^2

    Gradients are of single examples, squared before they are summed, with dropout off. With two or more examples in a
    batch they come from one backward pass that computes gradients of activations only; this way is tried on the first
    batch against single examples, parameter by parameter, and given up if it disagrees. Forming gradients takes 2 MiB
    (on a GPU 256 MiB) beyond the model's own activations, the sums eight bytes for each parameter, and the trial
    three times that for a moment.

    Args:
        module: the model; its parameters that require gradients are looked at.
        likelihood: what its outputs say about labels.
        labels: `exact` goes through all labels, weighted by the model's own prediction; `sampled` draws from it;
            `observed` takes the data's (the empirical Fisher); `auto` is exact up to 16 classes, else sampled.
        samples: draws for each example, with `sampled`.
        seed: of the draws.

    Raises:
        InputError: if nothing requires gradients, or `labels` is no such word.

    Example:
        >>> from weft.statistics.likelihoods import Classification
        >>> module = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(module.weight)
        >>> estimator = FisherEstimator(module, Classification())
        >>> estimator.update({"input": torch.tensor([[1.0, 2.0]])}, first=0)
        >>> estimator.means()["weight"]
        tensor([[0.2500, 1.0000],
                [0.2500, 1.0000]])
    """

    def __init__(
        self, module: Any, likelihood: Likelihood, labels: str = "auto", samples: int = 1, seed: int = 0
    ) -> None:
        super().__init__(module, {name: p for name, p in module.named_parameters() if p.requires_grad})
        self._likelihood = likelihood
        self._labels = Labels.named(labels, samples, seed)
        self._sums = _zeros(self._wanted)
        self._owners: list[Owner] = owners_of(module, self._wanted)
        self._plan: Plan | None = None
        self._slow = ""

    def means(self) -> dict[str, Tensor]:
        """The Fisher information of every parameter, with the parameter's shape."""
        count = self._seen()
        return {name: (total / count).float() for name, total in self._sums.items()}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which layers were not differentiated by formula."""
        if self._slow:
            return (self._slow,)
        kinds = sorted({type(owner.module).__name__ for owner in self._owners if owner.layer is None})
        return (f"no formula for {listed(kinds)}: such layers were run again for each example",) if kinds else ()

    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        if len(numbers) > 1 and not self._slow:
            if self._plan is None:
                self._plan = self._believed(batch)
            with suppress(Replan):
                if self._plan is not None:
                    self._together(self._plan, batch, self._scores(batch, numbers), self._sums)
                    return
            self._plan = None  # the model went another way, or there were no two examples to try it on
        self._one_by_one(batch, numbers, self._labels, self._sums)

    def _scores(self, batch: Batch, numbers: Sequence[int], labels: Labels | None = None) -> Scores:
        return lambda: self._likelihood.scores(self._module, batch, labels or self._labels, numbers)

    def _together(self, plan: Plan, batch: Batch, scores: Scores, sums: Mapping[str, Tensor]) -> None:
        Together(self._module, self._wanted, self._owners, plan).square(scores, examples(batch), sums)

    def _one_by_one(
        self, batch: Batch, numbers: Sequence[int], labels: Labels, sums: Mapping[str, Tensor]
    ) -> None:
        for row, number in enumerate(numbers):
            square_one(self._module, self._wanted, self._scores(rows(batch, [row]), [number], labels), sums)

    def _believed(self, batch: Batch) -> Plan | None:
        """How to compute all examples at once, tried on two of them; None if the batch has no two that differ."""
        pair = distinct(batch)
        if pair is None:
            return None
        plan = self._planned(batch, pair)
        if plan.obstacles:
            name, reason = next(iter(plan.obstacles.items()))
            return self._give_up(f"{name}: {reason}")
        two, trial = rows(batch, list(pair)), Labels(Kind.TRIAL)
        ours, theirs = _zeros(self._wanted), _zeros(self._wanted)
        self._one_by_one(two, (0, 1), trial, theirs)
        self._together(plan, two, self._scores(two, (0, 1), trial), ours)
        wrong = disagreeing(ours, theirs, next(iter(self._wanted.values())).dtype)
        return plan if not wrong else self._give_up(f"{listed(wrong)}: used in a way that hooks do not see")

    def _planned(self, batch: Batch, pair: tuple[int, int]) -> Plan:
        def run(count: int) -> None:
            some = rows(batch, [*pair, pair[0]][:count])
            next(iter(self._likelihood.scores(self._module, some, Labels(Kind.TRIAL), range(count))))

        with evaluated(self._module, self._wanted, differentiable=False):
            return planned(run, self._owners)

    def _give_up(self, why: str) -> None:
        self._slow = f"examples were differentiated one at a time, which is slow ({why})"


def _zeros(wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p, dtype=torch.float64, requires_grad=False) for name, p in wanted.items()}
