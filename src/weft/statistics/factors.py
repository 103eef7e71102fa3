"""Gram matrices of linear layers in the making: of their inputs and of their outputs' gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from weft.errors import InputError, listed
from weft.statistics.batches import IGNORED, LABELS, Batch, called
from weft.statistics.labels import Labels
from weft.statistics.layers.layer import precise
from weft.statistics.layers.linear import Conv1D, Linear
from weft.statistics.likelihoods import Likelihood
from weft.statistics.passes import evaluated, with_more
from weft.statistics.sums import Estimator
from weft.statistics.watching import Call, Owner, Watch, owners_of

GRADIENTS = "@gradients"
"""What the name of a Gram matrix of output gradients ends in."""
ROWS = "@rows"
"""What the name of a sum ends in that counts what a layer has seen: not every layer sees every token."""
_TARGET = (LABELS, "decoder_input_ids", "decoder_attention_mask")


@final
class GramEstimator(Estimator):
    r"""The Gram matrices of what linear layers see, and of the gradients of what they say: the factors of K-FAC.

    .. math::
        A = \frac{1}{N} \sum_t x_t x_t^\top, \qquad B = \frac{1}{N} \sum_t g_t g_t^\top

    over the N tokens that are not padding. Which tokens are padding, the batch's `attention_mask` says; for layers
    that follow the decoder of an encoder-decoder, `decoder_attention_mask`, or else labels that are -100. A layer that
    sees something other than tokens, as the head of a classifier does, has N = the vectors that it has seen.

    Args:
        module: the model.
        gradients: also B. Gradients are of single examples' log-likelihoods.
        likelihood: what the outputs say about labels; needed for B and for an encoder-decoder.
        labels: at which labels gradients are taken, as in `FisherEstimator`.
        samples: draws for each example, with `sampled`.
        seed: of the draws.
        padding: count padding, too.

    Raises:
        InputError: if the model has no linear layers, or B is wanted without a likelihood.

    Example:
        >>> estimator = GramEstimator(torch.nn.Linear(2, 3))
        >>> estimator.update({"input": torch.tensor([[1.0, 2.0]])}, first=0)
        >>> estimator.means()["weight"]
        tensor([[1., 2.],
                [2., 4.]])
    """

    def __init__(
        self,
        module: Any,
        gradients: bool = False,
        likelihood: Likelihood | None = None,
        labels: str = "auto",
        samples: int = 1,
        seed: int = 0,
        padding: bool = False,
    ) -> None:
        every = owners_of(module, dict(module.named_parameters()))
        self._owners, self._tied = _linear(every)
        if not self._owners:
            raise InputError("the model has no linear layers, so there are no Gram matrices", "choose another model")
        if gradients and likelihood is None:
            raise InputError("gradients are those of a likelihood, and there is none", "give a likelihood")
        wanted = {owner.own["weight"]: owner.module.weight for owner in self._owners}
        super().__init__(module, wanted)
        self._gradients, self._likelihood, self._padding = gradients, likelihood, padding
        self._labels = Labels.named(labels, samples, seed)
        self._decoder: frozenset[str] | None = None
        for owner in self._owners:
            self._make(owner)

    def means(self) -> dict[str, Tensor]:
        """The Gram matrices, by the names of the layers' weights and, of gradients, with `@gradients` after it."""
        self._seen()
        matrices = {name: total for name, total in self._sums.items() if not name.endswith(ROWS)}
        counts = {name: self._sums[name.removesuffix(GRADIENTS) + ROWS] for name in matrices}
        return {name: (total / counts[name].clamp(min=1)).float() for name, total in matrices.items()}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which layers have no Gram matrix."""
        if not self._tied:
            return ()
        return (f"no Gram matrix for {listed(self._tied)}: it is an embedding, too, which looks up what it multiplies",)

    def _make(self, owner: Owner) -> None:
        weight = owner.module.weight
        outputs, inputs = weight.shape if isinstance(owner.layer, Linear) else weight.shape[::-1]
        name = owner.own["weight"]
        zeros = partial(torch.zeros, dtype=torch.float64, device=weight.device)
        self._sums[name] = zeros(inputs, inputs)
        self._sums[name + ROWS] = zeros(1)
        if self._gradients:
            self._sums[name + GRADIENTS] = zeros(outputs, outputs)

    def _take(self, batch: Batch, numbers: Sequence[int]) -> None:
        with evaluated(self._module, self._wanted, differentiable=False):
            if self._decoder is None:
                self._decoder = self._followers(batch)
            if self._gradients:
                self._both(batch, numbers)
            else:
                with torch.no_grad(), self._watched(partial(self._heard, batch), len(numbers)):
                    self._run(batch)

    def _run(self, batch: Batch) -> None:
        if self._likelihood is None:
            called(self._module, batch)
        else:
            self._likelihood.run(self._module, batch)

    def _watched(self, tell: Any, examples: int) -> AbstractContextManager[Watch]:
        return Watch(self._owners, frozenset(), examples, tell).listening()

    def _both(self, batch: Batch, numbers: Sequence[int]) -> None:
        def heard(call: Call) -> None:
            self._heard(batch, call)
            call.outputs[0].register_hook(partial(self._arrived, batch, call))

        assert self._likelihood is not None
        with torch.enable_grad(), self._watched(heard, len(numbers)) as watch:
            for score, more in with_more(self._likelihood.scores(self._module, batch, self._labels, numbers)):
                torch.autograd.grad(score.sum(), watch.leaves, retain_graph=more, allow_unused=True)

    def _heard(self, batch: Batch, call: Call) -> None:
        name = call.owner.own["weight"]
        inputs = self._counted(call, call.first_input().detach(), batch)
        self._sums[name] += inputs.mT @ inputs
        self._sums[name + ROWS] += len(inputs)

    def _arrived(self, batch: Batch, call: Call, gradient: Tensor) -> None:
        with torch.no_grad():
            gradients = self._counted(call, gradient, batch)
            self._sums[call.owner.own["weight"] + GRADIENTS] += gradients.mT @ gradients

    def _counted(self, call: Call, tensor: Tensor, batch: Batch) -> Tensor:
        """The vectors that a layer has seen, without padding."""
        vectors = precise(tensor).reshape(-1, tensor.shape[-1])
        mask = None if self._padding else self._mask(call.owner.name, batch)
        if mask is None or tensor.shape[:-1] not in (mask.shape, mask.flatten().shape):
            return vectors
        return vectors[mask.flatten()]

    def _mask(self, name: str, batch: Batch) -> Tensor | None:
        if name not in (self._decoder or ()):
            return batch["attention_mask"].bool() if "attention_mask" in batch else None
        if "decoder_attention_mask" in batch:
            return batch["decoder_attention_mask"].bool()
        return batch[LABELS] != IGNORED if LABELS in batch else None

    def _followers(self, batch: Batch) -> frozenset[str]:
        """The layers that see the decoder's tokens: those that see fewer when the target is one token shorter."""
        if not getattr(getattr(self._module, "config", None), "is_encoder_decoder", False):
            return frozenset()
        target = {name: batch[name] for name in _TARGET if name in batch}
        if any(column.shape[1] < 2 for column in target.values()):
            target = {name: torch.cat([column, column], 1) for name, column in target.items()}
        shorter = {name: column[:, :-1] for name, column in target.items()}
        longer, less = self._sizes({**batch, **target}), self._sizes({**batch, **shorter})
        return frozenset(name for name, size in longer.items() if less.get(name) != size)

    def _sizes(self, batch: Batch) -> Mapping[str, torch.Size]:
        sizes: dict[str, torch.Size] = {}

        def note(call: Call) -> None:
            sizes[call.owner.name] = call.first_input().shape

        with torch.no_grad(), self._watched(note, 1):
            self._run(batch)
        return sizes


def _linear(owners: Sequence[Owner]) -> tuple[list[Owner], list[str]]:
    """The linear layers, and the weights among theirs that are embeddings, too."""
    linear = [o for o in owners if isinstance(o.layer, (Linear, Conv1D)) and "weight" in o.own]
    others = {name for o in owners if not isinstance(o.layer, (Linear, Conv1D)) for name in o.own.values()}
    kept = [owner for owner in linear if owner.own["weight"] not in others]
    return kept, sorted({owner.own["weight"] for owner in linear} & others)
