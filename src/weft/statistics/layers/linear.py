"""Linear layers: the gradient is a sum over positions of outer products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from weft.statistics.layers.layer import Layer, precise, unchanged
from weft.statistics.layers.use import Formed, Products, Use


def positions(tensor: Tensor, examples: int) -> Tensor:
    """Examples x positions x features."""
    return precise(tensor).reshape(examples, -1, tensor.shape[-1])


def bias_of(module: Any, gradient: Tensor) -> dict[str, Use]:
    """A bias, if there is one: the output gradients, summed over positions."""
    return {} if module.bias is None else {"bias": Formed(gradient.sum(1))}


def is_conv1d(module: Any) -> bool:
    """Whether a module is the linear layer of GPT-2, whose matrix lies the other way; tested without an import."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


@final
class Linear(Layer):
    """`torch.nn.Linear`: the matrix is outputs x inputs."""

    def fits(self, module: Any) -> bool:
        """Subclasses that keep its `forward` are linear, too."""
        return unchanged(module, nn.Linear)

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """Products of output gradients and inputs; for the bias the sum of the former."""
        left, right = positions(gradient, examples), positions(inputs, examples)
        return {"weight": Products(left, right), **bias_of(module, left)}


@final
class Conv1D(Layer):
    """The linear layer of GPT-2 in transformers: the matrix is inputs x outputs."""

    def fits(self, module: Any) -> bool:
        """That class and no other."""
        return is_conv1d(module)

    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """Products of inputs and output gradients; for the bias the sum of the latter."""
        left, right = positions(inputs, examples), positions(gradient, examples)
        return {"weight": Products(left, right), **bias_of(module, right)}
