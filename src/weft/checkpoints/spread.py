"""Single numbers that stand for all of a tensor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.wrapping import Wrapping
from weft.kernels.dtypes import DType


class Spread(Wrapping):
    """A checkpoint whose tensors without dimensions have the shapes of another's, their number in every place.

    Args:
        inner: the checkpoint.
        shapes: of the other's tensors.

    Example:
        >>> import numpy as np
        >>> from weft.checkpoints.memory import InMemory
        >>> one = Spread(InMemory({"w": np.float32(3.0)}, "one number"), {"w": (2, 2)})
        >>> one.tensors["w"].shape, one.read("w", 1, 4, np.empty(12, np.uint8))
        ((2, 2), array([3., 3., 3.], dtype=float32))
    """

    def __init__(self, inner: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(inner)
        self.label = inner.label
        self.path = inner.path
        self.stem = inner.stem
        self.metadata = inner.metadata
        self.tied = inner.tied
        self._single = {name for name, spec in inner.tensors.items() if spec.shape == () and shapes.get(name, ())}
        self.tensors = MappingProxyType({
            name: replace(spec, shape=shapes[name]) if name in self._single else spec
            for name, spec in inner.tensors.items()
        })  # fmt: skip

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`."""
        if name not in self._single:
            return self._inner.read(name, start, stop, buffer)
        [number] = self._inner.read(name, 0, 1, buffer)
        values = buffer[: self.tensors[name].dtype.nbytes((stop - start,))].view(self.tensors[name].dtype.storage)
        values[:] = number
        return values

    def file_of(self, name: str) -> str:
        """As the inner checkpoint."""
        return self._inner.file_of(name)

    @property
    def notes(self) -> tuple[str, ...]:
        """As the inner checkpoint."""
        return self._inner.notes

    def stored_dtype(self, name: str) -> DType:
        """As the inner checkpoint."""
        return self._inner.stored_dtype(name)
