"""`weft.gradient`: in which direction, and how steeply, a model's loss rises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from weft.statistics.batches import Batch
from weft.statistics.estimating import GradientEstimator, fed
from weft.statistics.families import likelihood_of
from weft.statistics.likelihoods import Likelihood


def gradient(model: Any, batches: Iterable[Batch], likelihood: Likelihood | None = None) -> dict[str, Tensor]:
    r"""The mean gradient of a model's loss, for `weft.merge(..., method="apl")`, which wants it at the base.

    .. math::
        g = -\frac{1}{n} \sum_x \frac{\partial \log p(y_x \mid x)}{\partial \theta}

    at the labels that the data give, with dropout off. An example's loss is minus its log-likelihood: of a language
    model the sum over its tokens. Batches only save time: their size changes nothing but rounding.

    Args:
        model: a torch module; of its parameters, those that require gradients are looked at.
        batches: mappings from the names of the model's inputs to tensors, examples along the first dimension, with a
            column `labels` where the inputs do not tell what is right.
        likelihood: what the model's outputs say about labels; by default what its class says.

    Returns:
        By the names of parameters, in the parameters' shapes, in float32; in nats over the parameter's own unit.

    Raises:
        InputError: if there are no examples, labels are missing or outside the model's classes, the model has no
            trainable parameters, or it gives NaN.

    Source: Kong et al. 2024, *Activated Parameter Locating via Causal Intervention for Model Merging* (arXiv
    2408.09485), whose importances this approximates.

    Example:
        >>> import torch, weft
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> weft.gradient(model, [{"input": torch.tensor([[4.0]]), "labels": torch.tensor([0])}])["weight"]
        tensor([[-2.],
                [ 2.]])
    """
    return fed(GradientEstimator(model, likelihood or likelihood_of(model)), batches).means()
