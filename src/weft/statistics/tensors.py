"""Between torch tensors and the bytes of a safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.header import header_bytes
from weft.checkpoints.memory import storage

if TYPE_CHECKING:
    from torch import Tensor


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """One tensor of a checkpoint, in the format that it is stored in."""
    import torch

    spec = checkpoint.tensors[name]
    kept = checkpoint.read(name, 0, spec.size, np.empty(spec.nbytes, np.uint8))
    raw: Any = np.array(kept).view(np.uint8)  # a copy: what is read must not be changed
    return torch.from_numpy(raw).view(getattr(torch, spec.dtype.name)).reshape(spec.shape)


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    """What a header says of a tensor."""
    return TensorSpec(name, storage(name, tensor.new_zeros(0), name)[0], tuple(tensor.shape))


def file_parts(
    specs: Iterable[TensorSpec], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> Iterator[memoryview]:
    """A safetensors file, piece by piece.

    Args:
        specs: what the header says, in the order in which the tensors lie in the file.
        tensors: one for each, made when it is its turn.
        metadata: free text for the header.
    """
    kept = list(specs)
    yield memoryview(header_bytes(kept, metadata))
    for spec, tensor in zip(kept, tensors, strict=True):
        dtype, array = storage(spec.name, tensor, spec.name)
        assert dtype == spec.dtype
        yield memoryview(array.data).cast("B")


def open_tensors(path: Path) -> Checkpoint:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    from weft.checkpoints.safetensors import SafetensorsCheckpoint

    return SafetensorsCheckpoint(path, [path])
