"""Small tensors that lie one after the other are read together: a call of the system costs more than their bytes."""

from __future__ import annotations

import threading

from weft.checkpoints.positioned import read_at

_SMALL = 1 << 16
"""Bytes up to which a read is a small one."""

_WINDOW = 1 << 18
"""Bytes that are read at once when small reads follow each other."""

_GAP = 1 << 12
"""Bytes that may lie between two reads that follow each other."""


class ReadAhead(threading.local):
    """Reads from the files of one checkpoint; every thread has its own place in them."""

    def __init__(self) -> None:
        self._descriptor, self._start, self._stop = -1, 0, 0
        self._memory = memoryview(b"")
        self._last, self._end = -1, 0

    def read(self, descriptor: int, view: memoryview, position: int) -> int:
        """As `positioned.read_at`."""
        size = len(view)
        if size > _SMALL:
            return read_at(descriptor, view, position)
        follows = descriptor == self._last and 0 <= position - self._end <= _GAP
        self._last, self._end = descriptor, position + size
        if descriptor == self._descriptor and self._start <= position and position + size <= self._stop:
            return self._copied(view, position)
        if not follows:
            return read_at(descriptor, view, position)
        if not self._memory:
            self._memory = memoryview(bytearray(_WINDOW))
        self._descriptor, self._start = descriptor, position
        self._stop = position + read_at(descriptor, self._memory, position)
        return self._copied(view, position)

    def _copied(self, view: memoryview, position: int) -> int:
        count = min(len(view), self._stop - position)
        first = position - self._start
        view[:count] = self._memory[first : first + count]
        return count
