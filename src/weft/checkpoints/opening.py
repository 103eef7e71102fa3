"""From whatever a person names to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.float8 import dequantized
from weft.checkpoints.folders import check_index, find_weights
from weft.checkpoints.foreign import refuse_file, refuse_quantised_folder, refuse_quantised_tensors
from weft.checkpoints.hub import fetch, is_hub_id
from weft.checkpoints.memory import InMemory, is_module
from weft.checkpoints.pickled import PickledCheckpoint
from weft.checkpoints.safetensors import SafetensorsCheckpoint
from weft.errors import InputError

Source = Any
"""A path, a dict of tensors or an `nn.Module`."""


def open_checkpoint(source: Source, label: str = "a state dict") -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: an id on the Hub, `org/name@revision`; the path of a `.safetensors` file, of a torch pickle (`.bin`,
            `.pt`, `.pth`, `.ckpt`), of an index or of a model folder; a dict of torch tensors or numpy arrays; a
            `torch.nn.Module`.
        label: what to call an in-memory source in messages.

    Raises:
        InputError: if it is none of these, or damaged, or quantised.

    Example:
        >>> import numpy as np
        >>> str(open_checkpoint({"w": np.zeros((2, 3), np.float32)}).tensors["w"])
        'float32 [2, 3]'
    """
    if isinstance(source, str) and is_hub_id(source):
        return open_path(fetch(source).path)
    if isinstance(source, (str, os.PathLike)):
        return open_path(Path(source).expanduser())
    if is_module(source):
        return _unquantised(InMemory(source.state_dict(), label))
    if isinstance(source, Mapping):
        return _unquantised(InMemory(source, label))
    remedy = "pass a path, a dict of tensors or an nn.Module"
    raise InputError(f"{label}: cannot read tensors from a {type(source).__name__}", remedy)


def open_path(path: Path) -> Checkpoint:
    """Open a file, an index or a model folder.

    Raises:
        InputError: naming what is missing, damaged or of another kind than weights that can be merged.
    """
    if path.is_file():
        refuse_file(path)
    weights = find_weights(path)
    if path.is_dir():
        refuse_quantised_folder(path)
    for file in weights.files:
        refuse_file(file)
    opened = PickledCheckpoint if weights.are_pickled else SafetensorsCheckpoint
    checkpoint = opened(weights.path, weights.files, weights.stem)
    try:
        check_index(weights, checkpoint)
    except InputError:
        checkpoint.close()
        raise
    return _unquantised(checkpoint)


def _unquantised(checkpoint: Checkpoint) -> Checkpoint:
    """Float8 is decoded; other codes are refused."""
    try:
        refuse_quantised_tensors(checkpoint)
        return dequantized(checkpoint)
    except InputError:
        checkpoint.close()
        raise
