"""Layers whose per-example gradients follow from their inputs and the gradients of their outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from weft.statistics.layers.use import Use


class Layer(ABC):
    """A kind of layer with a formula for its parameters' gradients. Subclasses are final and hold no state."""

    @abstractmethod
    def fits(self, module: Any) -> bool:
        """Whether a module computes this and nothing else: its kind, its options, its unchanged `forward`."""

    @abstractmethod
    def uses(self, module: Any, inputs: Tensor, gradient: Tensor, examples: int) -> Mapping[str, Use]:
        """What a call contributes to the gradients of the module's own parameters.

        Args:
            module: the layer.
            inputs: its input; the first dimension is that of the examples, or a multiple with the examples outermost.
            gradient: of its output.
            examples: how many.

        Returns:
            By the names of its parameters.
        """


def precise(tensor: Tensor) -> Tensor:
    """Half precision is widened: squares and sums of it would lose what matters."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def unchanged(module: Any, kind: type) -> bool:
    """Whether a module's `forward` is that of the class whose formula is known."""
    return isinstance(module, kind) and type(module).forward is kind.forward  # type: ignore[attr-defined]
