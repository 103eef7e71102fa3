"""The diagonal Fisher information of a model in the making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from weft.errors import listed
from weft.statistics.batches import Batch, examples, rows
from weft.statistics.labels import Kind, Labels
from weft.statistics.likelihoods import Likelihood
from weft.statistics.passes import ReplanError, Scores, Together, evaluated, square_one
from weft.statistics.planning import Plan, distinct, planned
from weft.statistics.sums import Estimator
from weft.statistics.trial import disagreeing
from weft.statistics.watching import Owner, owners_of


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
        kinds = sorted({owner.kind for owner in self._owners if owner.layer is None})
        return (f"no formula for {listed(kinds)}: such layers were run again for each example",) if kinds else ()

    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        if len(numbers) > 1 and not self._slow:
            if self._plan is None:
                self._plan = self._believed(batch)
            with suppress(ReplanError):
                if self._plan is not None:
                    self._together(self._plan, batch, self._scores(batch, numbers), self._sums)
                    return
            self._plan = None  # the model went another way, or there were no two examples to try it on
        self._one_by_one(batch, numbers, self._labels, self._sums)

    def _scores(self, batch: Batch, numbers: Sequence[int], labels: Labels | None = None) -> Scores:
        return lambda: self._likelihood.scores(self._module, batch, labels or self._labels, numbers)

    def _together(self, plan: Plan, batch: Batch, scores: Scores, sums: Mapping[str, Tensor]) -> None:
        Together(self._module, self._wanted, self._owners, plan).square(scores, examples(batch), sums)

    def _one_by_one(self, batch: Batch, numbers: Sequence[int], labels: Labels, sums: Mapping[str, Tensor]) -> None:
        for row, number in enumerate(numbers):
            square_one(self._module, self._wanted, self._scores(rows(batch, [row]), [number], labels), sums)

    def _believed(self, batch: Batch) -> Plan | None:
        """How to compute all examples at once, tried on two of them; None if there is nothing to try."""
        pair = distinct(batch)
        if pair is None:
            return None
        plan = self._planned(batch, pair)
        if plan.obstacles:
            name, reason = next(iter(plan.obstacles.items()))
            self._give_up(f"{name}: {reason}")
            return None
        two, trial = rows(batch, list(pair)), Labels(Kind.TRIAL)
        theirs = _zeros(self._wanted)
        self._one_by_one(two, (0, 1), trial, theirs)
        if not any(total.any() for total in theirs.values()):
            return None  # two examples without a gradient, as without a masked token, prove nothing
        wrong: list[str] = []
        for way in (plan, replace(plan, copied=True)):
            ours = _zeros(self._wanted)
            self._together(way, two, self._scores(two, (0, 1), trial), ours)
            wrong = disagreeing(ours, theirs, next(iter(self._wanted.values())).dtype)
            if not wrong:
                return way
        self._give_up(f"{listed(wrong)}: used in a way that hooks do not see")
        return None

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
