"""What the engine knows of a checkpoint: names, shapes, formats, and how to read a range of one tensor."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from weft.checkpoints.sources import SourceFile
from weft.kernels.dtypes import DType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its numbers."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes in storage."""
        return self.dtype.nbytes(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


class Checkpoint(ABC):
    """A set of named tensors that can be read in ranges from several threads at once.

    Attributes:
        label: what to call it in a message: its path, or a word for a dict of tensors.
        tensors: what it holds, in its own order.
        metadata: free text that came with it; statistics files keep their figures there.
        tied: for each name that shares its numbers with an earlier one, that earlier name.
        path: the file or folder on disk, if there is one.
        stem: the first part of the names of its files, which the output takes over; of a pipeline, for each part's
            folder.
    """

    label: str
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    tied: Mapping[str, str]
    path: Path | None
    stem: str | Mapping[str, str] = "model"

    @abstractmethod
    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """The elements `start` to `stop` of a tensor, in storage format.

        Args:
            name: the tensor.
            start: first element of the flattened tensor.
            stop: one past the last.
            buffer: uint8, at least as long as the range; may be filled and viewed, or left alone.

        Returns:
            One-dimensional, of the dtype's storage type. It may be a view of `buffer` or of the checkpoint's own
            memory, and must not be changed.
        """

    def read_whole(self, names: Sequence[str], buffer: Array) -> None:
        """All elements of several tensors of one number format, one after the other, in storage format.

        Args:
            names: the tensors.
            buffer: uint8, as long as all of them together; is filled.
        """
        at = 0
        for name in names:
            spec = self.tensors[name]
            part = buffer[at : at + spec.nbytes]
            values = self.read(name, 0, spec.size, part)
            if not np.may_share_memory(values, part):
                part.view(spec.dtype.storage)[:] = values
            at += spec.nbytes

    @abstractmethod
    def file_of(self, name: str) -> str:
        """Which file holds this tensor, for messages."""

    def stored_dtype(self, name: str) -> DType:
        """The format that an output takes over; not the tensor's own where that is computed on the fly."""
        return self.tensors[name].dtype

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What tells one checkpoint from another without reading its numbers: names, formats, shapes and sizes."""
        told = [[s.name, s.dtype.code, list(s.shape)] for s in sorted(self.tensors.values(), key=lambda s: s.name)]
        digest = hashlib.sha256(json.dumps([told, sorted(self.metadata.items())]).encode()).hexdigest()
        return {"tensors": len(told), "bytes": sum(s.nbytes for s in self.tensors.values()), "header_sha256": digest}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how it is read."""
        return ()

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The files that its numbers come from, as they were when they were opened; none if it is in memory."""
        return ()

    @property
    @abstractmethod
    def is_resident(self) -> bool:
        """Whether the numbers are in memory already, so that reading again costs nothing."""

    @property
    def is_computed(self) -> bool:
        """Whether reading means so much computing that what was read is worth keeping, however much else is to be read.

        What lies in a file as it is mostly comes back from the system's memory as fast as from ours.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Release files."""
