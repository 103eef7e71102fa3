"""`weft.gram`: what goes into a model's linear layers, and what comes back to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from weft.statistics.batches import Batch
from weft.statistics.estimating import GramEstimator, fed
from weft.statistics.families import likelihood_of
from weft.statistics.likelihoods import Likelihood


def gram(
    model: Any,
    batches: Iterable[Batch],
    gradients: bool = False,
    likelihood: Likelihood | None = None,
    labels: str = "auto",
    samples: int = 1,
    seed: int = 0,
    padding: bool = False,
) -> dict[str, Tensor]:
    r"""The Gram matrices of the inputs of a model's linear layers, and of their outputs' gradients (K-FAC).

    .. math::
        A = \frac{1}{N} \sum_t x_t x_t^\top, \qquad B = \frac{1}{N} \sum_t g_t g_t^\top

    over the N tokens that a layer sees and that are not padding; a layer that sees one vector for an example, as a
    head does, has N = the number of examples.

    Args:
        model: a torch module.
        batches: mappings from the names of the model's inputs to tensors, examples along the first dimension.
        gradients: also B, under the weight's name and `@gradients`. It takes backward passes and a likelihood.
        likelihood: what the model's outputs say about labels; by default what its class says.
        labels: at which labels gradients are taken, as in `weft.fisher`.
        samples: draws for each example, with `sampled`.
        seed: of the draws.
        padding: count padding, too, as the RegMean of MergeLM does.

    Returns:
        By the names of weights: A, inputs x inputs, and B, outputs x outputs, in float32.

    Raises:
        InputError: if there are no examples, no linear layers, or the model gives NaN.

    Source: Jin et al. 2023, *Dataless Knowledge Fusion by Merging Weights of Language Models* (arXiv 2212.09849),
    section 3; Tam et al. 2024, *Merging by Matching Models in Task Parameter Subspaces* (arXiv 2312.04339).

    Example:
        >>> import torch, weft
        >>> model = torch.nn.Linear(2, 3)
        >>> weft.gram(model, [{"input": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}])["weight"]
        tensor([[5., 1.],
                [1., 2.]])
    """
    if likelihood is None and (gradients or getattr(getattr(model, "config", None), "is_encoder_decoder", False)):
        likelihood = likelihood_of(model)
    return fed(GramEstimator(model, gradients, likelihood, labels, samples, seed, padding), batches).means()
