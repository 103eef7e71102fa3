"""Reading tiles, and keeping those that the next pass will want, if they took computing, as far as memory allows.

What lies in a file as it is is read again: it comes from the system's memory into a tile that is still in the
processor's cache, which is as fast as looking at a copy of our own, and leaves memory to others.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from threading import Lock
from typing import Any

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.binding import RANK
from weft.engine.progress import Progress
from weft.engine.ranking import ranked
from weft.engine.watch import Watch
from weft.engine.work import Key, Operand, Strip, Work

_Place = tuple[int, str, int, int]


class Residency:
    """Memory for input that is held between passes, over all that runs at once.

    What is given back is used again for the next that asks for as much: memory that is new to the process costs as
    much as reading into it.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = limit
        self._free: dict[int, list[Array]] = {}
        self._lock = Lock()

    def take(self, count: int) -> Array | None:
        """Memory for so many bytes, if there is so much left."""
        with self._lock:
            if free := self._free.get(count):
                return free.pop()
            if count > self._left:
                self._left += sum(size * len(arrays) for size, arrays in self._free.items())
                self._free.clear()
            if count > self._left:
                return None
            self._left -= count
        return np.empty(count, np.uint8)

    def give(self, memory: Array) -> None:
        """Let go of it."""
        with self._lock:
            self._free.setdefault(memory.nbytes, []).append(memory)


class Reader:
    """Reads the tiles of the tensors that share a scope; in later passes from memory where it could keep them.

    Args:
        residency: who allows keeping.
        progress: is told of bytes that were looked at.
    """

    def __init__(self, residency: Residency, progress: Progress) -> None:
        self._residency = residency
        self._progress = progress
        self._kept: dict[_Place, Array] = {}
        self._memory: list[Array] = []

    def read(self, operand: Operand, start: int, stop: int, buffers: Buffers, purpose: Any, keep: bool) -> Array:
        """A range of one tensor.

        Args:
            operand: which tensor.
            start: first element.
            stop: one past the last.
            buffers: the thread's own memory, which may be read into.
            purpose: what it is for.
            keep: whether a later pass will want it again.
        """
        size = (stop - start) * operand.spec.dtype.itemsize
        if not operand.checkpoint.is_computed:
            return operand.checkpoint.read(operand.spec.name, start, stop, buffers.of(purpose, size))
        place = (id(operand.checkpoint), operand.spec.name, start, stop)
        kept = self._kept.get(place)
        if kept is not None:
            return kept
        memory = self._residency.take(size) if keep else None
        room = buffers.of(purpose, size) if memory is None else memory
        values = operand.checkpoint.read(operand.spec.name, start, stop, room)
        if memory is not None:
            self._kept[place] = values
            self._memory.append(memory)
        return values

    def looked_at(self, count: int) -> None:
        """So many bytes were looked at, or need not be."""
        self._progress.advance(count)

    def release(self) -> None:
        """Forget what was kept."""
        self._kept.clear()
        while self._memory:
            self._residency.give(self._memory.pop())


class StripInputs:
    """The inputs of one strip. Each is read when it is first asked for, and once.

    Args:
        reader: reads.
        strip: what is computed.
        buffers: the thread's own memory.
        keep: whether a later pass will want the inputs again.
        watch: examines what is read.
    """

    def __init__(self, reader: Reader, strip: Strip[Work], buffers: Buffers, keep: bool, watch: Watch) -> None:
        self._reader = reader
        self._strip = strip
        self._buffers = buffers
        self._keep = keep
        self._watch = watch
        self._arrays: dict[Key, Array] = {}

    def __call__(self, key: Key) -> Array:
        """What goes by this key."""
        values = self._arrays.get(key)
        if values is None and key[0] == RANK:
            (tile,) = self._strip.tiles
            return ranked(self._reader, tile, key[1] or 0, self._buffers)
        if values is None:
            values = self._arrays[key] = self._read(key)
            self._watch.look(self._strip, key, values)
        return values

    def finish(self) -> None:
        """One pass over the strip is done."""
        self._reader.looked_at(sum(values.nbytes for values in self._arrays.values()))

    def _read(self, key: Key) -> Array:
        strip = self._strip
        if len(strip.tiles) == 1:
            (tile,) = strip.tiles
            return self._reader.read(tile.item.operands[key], tile.start, tile.stop, self._buffers, key, self._keep)
        dtype = strip.item.operands[key].spec.dtype
        joined = self._buffers.typed(key, strip.size, dtype.storage)
        operands = [tile.item.operands[key] for tile in strip.tiles]
        at = 0
        for checkpoint, together in groupby(operands, attrgetter("checkpoint")):
            specs = [operand.spec for operand in together]
            size = sum([spec.size for spec in specs])
            checkpoint.read_whole([spec.name for spec in specs], joined[at : at + size].view(np.uint8))
            at += size
        return joined


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
