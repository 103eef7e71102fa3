"""Normalisations: the gradient is a sum over positions of elementwise products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from weft.statistics.layers.layer import Layer, precise, unchanged
from weft.statistics.layers.use import Formed, Use


def _flat(tensor: Tensor, module: Any, examples: int) -> Tensor:
    """Examples x positions x features, the normalised dimensions being one."""
    size = torch.Size(module.normalized_shape).numel()
    return precise(tensor).reshape(examples, -1, size)


@final
class LayerNorm(Layer):
    """`torch.nn.LayerNorm`."""

    def fits(self, module: Any) -> bool:
        """With or without a bias."""
        return unchanged(module, nn.LayerNorm)

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """The output gradients times the normalised inputs; for the bias their sum."""
        flat = _flat(inputs, module, examples)
        normal = nn.functional.layer_norm(flat, flat.shape[-1:], eps=module.eps)
        gradients = _flat(gradient, module, examples)
        shape = (examples, *module.normalized_shape)
        weight, bias = (gradients * normal).sum(1).reshape(shape), gradients.sum(1).reshape(shape)
        return {"weight": Formed(weight), "bias": Formed(bias)}


@final
class RMSNorm(Layer):
    """`torch.nn.RMSNorm`; the classes of that name in transformers differ from one another and are replayed."""

    def fits(self, module: Any) -> bool:
        """That of torch."""
        return unchanged(module, nn.RMSNorm)

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """The output gradients times the inputs over their root mean square."""
        eps = torch.finfo(inputs.dtype).eps if module.eps is None else module.eps
        flat = _flat(inputs, module, examples)
        normal = flat * (flat.square().mean(-1, keepdim=True) + eps).rsqrt()
        weight = (_flat(gradient, module, examples) * normal).sum(1)
        return {"weight": Formed(weight.reshape(examples, *module.normalized_shape))}
