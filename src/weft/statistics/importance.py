"""`weft.importance`: what the parts of a fine-tuned model do to the loss of its base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from weft.algorithms.apl import Partition, part_of
from weft.errors import InputError, listed
from weft.statistics.batches import Batch
from weft.statistics.estimating import Graft, InterventionEstimator, fed
from weft.statistics.families import likelihood_of
from weft.statistics.likelihoods import Likelihood


def importance(
    base: Any,
    tuned: Any,
    batches: Iterable[Batch],
    partition: Partition = "layer",
    likelihood: Likelihood | None = None,
) -> dict[str, Tensor]:
    r"""By how much the loss of the base falls when a part of a fine-tuned model is put into it.

    .. math::
        I_p = \frac{1}{n} \sum_x \big( \log p(y_x \mid x, \theta_0 + \delta_p) - \log p(y_x \mid x, \theta_0) \big)

    where the task vector is zero outside of the part p. It takes as many forward passes as there are parts, and one
    more. Dropout is off; the base is as it was afterwards. `weft.gradient` approximates it, but for the sign.

    Args:
        base: a torch module.
        tuned: the fine-tuned one, with parameters of the same names and shapes.
        batches: mappings from the names of the model's inputs to tensors, examples along the first dimension, with a
            column `labels` where the inputs do not tell what is right.
        partition: what the parts are: `layer` (names that are the same up to the first number), `tensor`, `model`.
        likelihood: what the model's outputs say about labels; by default what its class says.

    Returns:
        By the names of parameters their part's importance in nats, a tensor without dimensions.

    Raises:
        InputError: if the models differ in names or shapes, there are no examples, labels are missing or outside the
            model's classes, or the model gives NaN.

    Source: Kong et al. 2024, *Activated Parameter Locating via Causal Intervention for Model Merging* (arXiv
    2408.09485).

    Example:
        >>> import torch, weft
        >>> base, tuned = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(1, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(base.weight), torch.nn.init.zeros_(tuned.weight)
        >>> tuned.weight.data[0] = 100.0
        >>> batches = [{"input": torch.ones(1, 1), "labels": torch.tensor([0])}]
        >>> weft.importance(base, tuned, batches)["weight"]
        tensor(0.6931)
    """
    own, other = ({name: p.detach() for name, p in module.named_parameters()} for module in (base, tuned))
    _check_alike(own, other)
    parts: dict[str, list[Graft]] = {part_of(name, partition): [] for name in own}
    for name, tensor in own.items():
        if not tensor.equal(other[name].to(tensor)):
            graft = Graft(name, slice(0, tensor.numel()), other[name].reshape(-1))
            parts[part_of(name, partition)].append(graft)
    means = fed(InterventionEstimator(base, likelihood or likelihood_of(base), parts), batches).means()
    return {name: means[part_of(name, partition)] for name in own}


def _check_alike(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    strange = sorted(base.keys() ^ tuned.keys())
    if strange:
        raise InputError(f"the models differ in {listed(strange)}", "give a base and a model fine-tuned from it")
    for name, tensor in base.items():
        if tensor.shape != tuned[name].shape:
            shapes = f"{list(tensor.shape)} in the base and {list(tuned[name].shape)} in the model"
            raise InputError(f"{name} has shape {shapes}", "give a base and a model fine-tuned from it")
