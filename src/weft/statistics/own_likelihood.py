"""A caller's own log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from weft.errors import InputError
from weft.statistics.batches import Batch
from weft.statistics.labels import Kind, Labels
from weft.statistics.likelihoods import Likelihood, Prediction, choices, ones


@final
@dataclass(frozen=True)
class Custom(Likelihood):
    """A caller's own log-likelihood.

    Attributes:
        function: from the module, the batch and a vector of labels (None with `observed`, when the batch holds what
            there is to know) to one log-likelihood for each example.
        classes: how many labels there are, if they are class numbers; without it only `observed` is possible.

    Example:
        >>> import torch
        >>> module = torch.nn.Linear(1, 1)
        >>> def gaussian(module, batch, labels):
        ...     return -0.5 * (module(batch["x"])[:, 0] - batch["y"]) ** 2
        >>> batch = {"x": torch.ones(2, 1), "y": torch.zeros(2)}
        >>> [score] = Custom(gaussian).scores(module, batch, Labels(Kind.OBSERVED), range(2))
        >>> score.shape
        torch.Size([2])
    """

    function: Callable[[Any, Batch, Tensor | None], Tensor]
    classes: int | None = None

    def scores(self, module: Any, batch: Batch, labels: Labels, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The log-likelihoods that the function gives."""
        if labels.kind is Kind.OBSERVED or (self.classes is None and labels.kind is Kind.TRIAL):
            yield self._asked(module, batch, None, numbers)
            return
        if self.classes is None:
            what = f"labels: {labels.kind.value} needs to know which labels there are"
            raise InputError(what, "say how many classes your log-likelihood has, or use labels: observed")
        every = [self._asked(module, batch, self._constant(batch, label), numbers) for label in range(self.classes)]
        logs = torch.stack(every, -1)
        probabilities = logs.detach().double().exp().sum(-1)
        if not torch.allclose(probabilities, torch.ones_like(probabilities), atol=1e-2):
            what = f"example {numbers[0]}: the likelihoods of all labels sum to {float(probabilities[0]):.4g}, not to 1"
            raise InputError(what, "return log-likelihoods, not losses or logits")
        prediction = Prediction(logs[:, None], ones(logs[:, :1]))
        for chosen, weight in choices(prediction, labels.settled(self.classes), numbers, logs.detach()[:, None]):
            score = logs.gather(-1, chosen)[:, 0]
            yield score if weight is None else (score[:, None] * weight)[:, 0]

    def run(self, module: Any, batch: Batch) -> Any:
        """Ask for the likelihood of the first label, or of the data."""
        return self.function(module, batch, None if self.classes is None else self._constant(batch, 0))

    def _constant(self, batch: Batch, label: int) -> Tensor:
        first = next(iter(batch.values()))
        return torch.full((len(first),), label, dtype=torch.long, device=first.device)

    def _asked(self, module: Any, batch: Batch, labels: Tensor | None, numbers: Sequence[int]) -> Tensor:
        scores = self.function(module, batch, labels)
        if scores.shape != (len(numbers),):
            what = f"the log-likelihood has shape {list(scores.shape)} for {len(numbers)} example(s)"
            raise InputError(what, "return one number for each example, not their mean")
        if not scores.detach().isfinite().all():
            row = int((~scores.detach().isfinite()).nonzero()[0, 0])
            raise InputError(f"example {numbers[row]}: the log-likelihood is NaN or infinite", "check the model")
        return scores
