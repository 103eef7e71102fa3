"""Convolutions: linear layers on patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from weft.statistics.layers.layer import Layer, precise, unchanged
from weft.statistics.layers.linear import bias_of
from weft.statistics.layers.use import Products, Use


@final
class Conv2d(Layer):
    """`torch.nn.Conv2d` over all channels at once; grouped ones are replayed."""

    def fits(self, module: Any) -> bool:
        """Padded with zeros, by numbers."""
        plain = unchanged(module, nn.Conv2d) and module.groups == 1
        return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """Products of output gradients and the patches that they look at."""
        patches = nn.functional.unfold(
            precise(inputs), module.kernel_size, module.dilation, module.padding, module.stride
        )
        right = _outermost(patches.mT, examples)
        left = _outermost(precise(gradient).flatten(2).mT, examples)
        return {"weight": Products(left, right), **bias_of(module, left)}


def _outermost(tensor: Tensor, examples: int) -> Tensor:
    """Several pictures of one example, such as frames, are more positions."""
    return tensor.reshape(examples, -1, tensor.shape[-1])
