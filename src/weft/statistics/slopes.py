"""The mean gradient of a model's loss in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from weft.statistics.batches import Batch
from weft.statistics.labels import Kind, Labels
from weft.statistics.layers.layer import precise
from weft.statistics.likelihoods import Likelihood
from weft.statistics.passes import evaluated
from weft.statistics.sums import Estimator


@final
class GradientEstimator(Estimator):
    r"""The mean over examples of the gradient of a model's loss, at the labels that the data give.

    .. math::
        g = -\frac{1}{n} \sum_x \frac{\partial \log p(y_x \mid x)}{\partial \theta}

    Dropout is off. One backward pass for a batch; sums over batches are in float64.

    Args:
        module: the model; its parameters that require gradients are looked at.
        likelihood: what its outputs say about labels.

    Raises:
        InputError: if nothing requires gradients.

    Example:
        >>> from weft.statistics.likelihoods import Classification
        >>> module = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(module.weight)
        >>> estimator = GradientEstimator(module, Classification())
        >>> estimator.update({"input": torch.tensor([[1.0, 2.0]]), "labels": torch.tensor([1])}, first=0)
        >>> estimator.means()["weight"]
        tensor([[ 0.5000,  1.0000],
                [-0.5000, -1.0000]])
    """

    def __init__(self, module: Any, likelihood: Likelihood) -> None:
        super().__init__(module, {name: p for name, p in module.named_parameters() if p.requires_grad})
        self._likelihood = likelihood
        self._sums = {n: torch.zeros_like(p, dtype=torch.float64, requires_grad=False) for n, p in self._wanted.items()}

    def means(self) -> dict[str, Tensor]:
        """The mean gradient of every parameter, with the parameter's shape."""
        count = self._seen()
        return {name: (total / count).float() for name, total in self._sums.items()}

    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        with evaluated(self._module, self._wanted, differentiable=True), torch.enable_grad():
            [score] = self._likelihood.scores(self._module, batch, Labels(Kind.OBSERVED), numbers)
            gradients = torch.autograd.grad(score.sum(), list(self._wanted.values()), allow_unused=True)
        for total, gradient in zip(self._sums.values(), gradients, strict=True):
            if gradient is not None:
                total.sub_(precise(gradient))
