"""Reading tiles, and keeping those that the next pass will want as far as the memory allows."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.progress import Progress
from weft.engine.work import Operand, Tile

_Place = tuple[int, str, int]


class Residency:
    """How many bytes of input are held between passes, over all that runs at once."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = Lock()

    def take(self, count: int) -> bool:
        """Ask to hold so many bytes more."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """Let go of them."""
        with self._lock:
            self._left += count


class Reader:
    """Reads the tiles of the tensors that share a scope; in later passes from memory where it could keep them.

    Args:
        residency: who allows keeping.
        progress: is told of bytes that were read.
    """

    def __init__(self, residency: Residency, progress: Progress) -> None:
        self._residency = residency
        self._progress = progress
        self._kept: dict[_Place, Array] = {}

    def read(self, operand: Operand, tile: Tile, buffers: Buffers, keep: bool, position: int = 0) -> Array:
        """The range of a tile of one operand.

        Args:
            operand: which tensor.
            tile: which range.
            buffers: the thread's own memory.
            keep: whether a later pass will want it again.
            position: which of the operands that are in use at once this is.
        """
        place = (id(operand.checkpoint), operand.spec.name, tile.start)
        kept = self._kept.get(place)
        if kept is not None:
            return kept
        size = (tile.stop - tile.start) * operand.spec.dtype.itemsize
        retain = keep and not operand.checkpoint.is_resident and self._residency.take(size)
        buffer = np.empty(size, np.uint8) if retain else buffers.of(position, size)
        values = operand.checkpoint.read(operand.spec.name, tile.start, tile.stop, buffer)
        self._progress.advance(size)
        if retain:
            self._kept[place] = values
        return values

    def release(self) -> None:
        """Forget what was kept."""
        for values in self._kept.values():
            self._residency.give(values.nbytes)
        self._kept.clear()


class Buffers:
    """Memory that one thread uses again and again, by purpose."""

    def __init__(self) -> None:
        self._memory: dict[Any, Array] = {}

    def of(self, purpose: Any, size: int) -> Array:
        """At least `size` bytes."""
        memory = self._memory.get(purpose)
        if memory is None or memory.nbytes < size:
            memory = self._memory[purpose] = np.empty(size, np.uint8)
        return memory[:size]

    def typed(self, purpose: Any, count: int, dtype: np.dtype[Any]) -> Array:
        """Room for `count` numbers."""
        return self.of(purpose, count * dtype.itemsize).view(dtype)
