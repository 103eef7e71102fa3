"""From whatever a person names to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.memory import InMemory, is_module
from weft.checkpoints.safetensors import open_safetensors
from weft.errors import InputError

Source = Any
"""A path, a dict of tensors or an `nn.Module`."""


def open_checkpoint(source: Source, label: str = "a state dict") -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: the path of a `.safetensors` file, of an index or of a model folder; a dict of torch tensors or numpy
            arrays; a `torch.nn.Module`.
        label: what to call an in-memory source in messages.

    Raises:
        InputError: if it is none of these, or damaged.

    Example:
        >>> import numpy as np
        >>> str(open_checkpoint({"w": np.zeros((2, 3), np.float32)}).tensors["w"])
        'float32 [2, 3]'
    """
    if isinstance(source, (str, os.PathLike)):
        return open_safetensors(Path(source).expanduser())
    if is_module(source):
        return InMemory(source.state_dict(), label)
    if isinstance(source, Mapping):
        return InMemory(source, label)
    remedy = "pass a path, a dict of tensors or an nn.Module"
    raise InputError(f"{label}: cannot read tensors from a {type(source).__name__}", remedy)
