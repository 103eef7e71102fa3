"""Embeddings: the gradient is nothing but for the rows that were looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from weft.statistics.layers.layer import Layer, unchanged
from weft.statistics.layers.linear import positions
from weft.statistics.layers.use import Rows, Use


@final
class Embedding(Layer):
    """`torch.nn.Embedding`, and those of transformers that multiply what they look up by `embed_scale`."""

    def fits(self, module: Any) -> bool:
        """Without the options that change weights or gradients."""
        known = unchanged(module, nn.Embedding) or _is_scaled(module)
        return known and module.max_norm is None and not module.scale_grad_by_freq

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """The output gradients, at the rows that were looked up."""
        vectors = positions(gradient, examples)
        if _is_scaled(module):
            vectors = vectors * float(module.embed_scale)
        chosen = inputs.reshape(examples, -1)
        return {"weight": Rows(chosen, vectors, module.num_embeddings, module.padding_idx)}


def _is_scaled(module: Any) -> bool:
    return isinstance(module, nn.Embedding) and hasattr(module, "embed_scale")
