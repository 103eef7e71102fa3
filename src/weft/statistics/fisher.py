"""`weft.fisher`: how much a model's data say about each of its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from weft.statistics.batches import Batch
from weft.statistics.estimating import FisherEstimator, fed
from weft.statistics.families import likelihood_of
from weft.statistics.likelihoods import Likelihood


def fisher(
    model: Any,
    batches: Iterable[Batch],
    labels: str = "auto",
    likelihood: Likelihood | None = None,
    samples: int = 1,
    seed: int = 0,
) -> dict[str, Tensor]:
    r"""The diagonal of the Fisher information of a model's parameters, for `weft.merge(..., method="fisher")`.

    .. math::
        F = \frac{1}{n} \sum_x \sum_y p(y \mid x) \left( \frac{\partial \log p(y \mid x)}{\partial \theta} \right)^2

    Squares are of single examples' gradients, with dropout off. Batches only save time: their size changes nothing
    but rounding, and random labels depend on the seed, the number of the example and the position alone.

    Args:
        model: a torch module; of its parameters, those that require gradients are looked at.
        batches: mappings from the names of the model's inputs to tensors, examples along the first dimension, with a
            column `labels` where labels are needed.
        labels: `exact` goes through all labels, weighted by the model's own prediction; `sampled` draws from it;
            `observed` takes the data's (the empirical Fisher); `auto` is exact up to 16 classes, else sampled.
        likelihood: what the model's outputs say about labels; by default what its class says.
        samples: draws for each example, with `sampled`.
        seed: of the draws.

    Returns:
        By the names of parameters, in the parameters' shapes, in float32; in units of nats over the square of the
        parameter's own.

    Raises:
        InputError: if there are no examples, labels are missing or outside the model's classes, the model has no
            trainable parameters, or it gives NaN.

    Source: Matena and Raffel 2022, *Merging Models with Fisher-Weighted Averaging* (arXiv 2111.09832), section 3,
    equation 4.

    Example:
        >>> import torch, weft
        >>> model = torch.nn.Linear(2, 2)
        >>> batches = [{"input": torch.randn(8, 2)}, {"input": torch.randn(3, 2)}]
        >>> sorted((name, list(f.shape)) for name, f in weft.fisher(model, batches).items())
        [('bias', [2]), ('weight', [2, 2])]
    """
    estimator = FisherEstimator(model, likelihood or likelihood_of(model), labels, samples, seed)
    return fed(estimator, batches).means()
