"""What becomes of a model's loss where a part of another model is put into it, in the making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from weft.statistics.batches import Batch
from weft.statistics.labels import Kind, Labels
from weft.statistics.likelihoods import Likelihood
from weft.statistics.passes import evaluated
from weft.statistics.sums import Estimator


@dataclass(frozen=True, eq=False)
class Graft:
    """Numbers that take the place of some of a parameter's.

    Attributes:
        parameter: its name.
        places: where they go in the parameter, flattened: a slice, or a tensor of indices.
        values: as many numbers.
    """

    parameter: str
    places: Any
    values: Tensor


@final
class InterventionEstimator(Estimator):
    r"""By how much the mean loss of a model falls when a part of another model is put into it.

    .. math::
        I_p = \frac{1}{n} \sum_x \big( \log p(y_x \mid x, \theta_0 + \delta_p) - \log p(y_x \mid x, \theta_0) \big)

    where the task vector is zero outside of the part p. It takes one forward pass, and one for each part that differs.
    Dropout is off; the model is as it was afterwards.

    Args:
        module: the model.
        likelihood: what its outputs say about labels.
        parts: for each part what is put in; nothing where the models are equal, which changes nothing.

    Raises:
        InputError: if the model has no parameters.

    Example:
        >>> from weft.statistics.likelihoods import Regression
        >>> module = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(module.weight)
        >>> parts = {"all": [Graft("weight", slice(0, 1), torch.ones(1))], "none": []}
        >>> estimator = InterventionEstimator(module, Regression(), parts)
        >>> estimator.update({"input": torch.ones(1, 1), "labels": torch.ones(1, 1)}, first=0)
        >>> estimator.means()
        {'all': tensor(0.5000), 'none': tensor(0.)}
    """

    def __init__(self, module: Any, likelihood: Likelihood, parts: Mapping[str, Sequence[Graft]]) -> None:
        super().__init__(module, dict(module.named_parameters()))
        self._likelihood = likelihood
        self._parts = parts
        device = next(iter(self._wanted.values())).device
        self._sums = {part: torch.zeros((), dtype=torch.float64, device=device) for part in parts}

    def means(self) -> dict[str, Tensor]:
        """By part, in units of the loss, which are nats."""
        count = self._seen()
        return {part: (total / count).float() for part, total in self._sums.items()}

    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        with evaluated(self._module, self._wanted, differentiable=False), torch.no_grad():
            before = self._score(batch, numbers)
            for part, grafts in self._parts.items():
                if grafts:
                    with self._grafted(grafts):
                        self._sums[part] += (self._score(batch, numbers) - before).sum()

    def _score(self, batch: Batch, numbers: Sequence[int]) -> Tensor:
        [score] = self._likelihood.scores(self._module, batch, Labels(Kind.OBSERVED), numbers)
        return score.double()

    @contextmanager
    def _grafted(self, grafts: Sequence[Graft]) -> Iterator[None]:
        """A part put in; what is tied is put in twice, and taken out in the opposite order."""
        kept = []
        try:
            for graft in grafts:
                parameter = self._wanted[graft.parameter].data
                kept.append((parameter, parameter.clone()))
                flat = parameter.reshape(-1).clone()
                flat[graft.places] = graft.values.to(flat.device, flat.dtype)
                parameter.copy_(flat.reshape(parameter.shape))
            yield
        finally:
            for parameter, before in reversed(kept):
                parameter.copy_(before)
