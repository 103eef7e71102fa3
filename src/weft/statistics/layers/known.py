"""All layers with a formula."""

from __future__ import annotations

from typing import Any

from weft.statistics.layers.convolution import Conv2d
from weft.statistics.layers.embedding import Embedding
from weft.statistics.layers.layer import Layer
from weft.statistics.layers.linear import Conv1D, Linear
from weft.statistics.layers.norm import LayerNorm, RMSNorm

LAYERS: tuple[Layer, ...] = (Linear(), Conv1D(), Embedding(), LayerNorm(), RMSNorm(), Conv2d())


def layer_of(module: Any) -> Layer | None:
    """The formula for a module, or None."""
    return next((layer for layer in LAYERS if layer.fits(module)), None)
