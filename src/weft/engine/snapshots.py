"""Unfinished passes, kept on disk now and then: over a large model a pass may take an hour."""

from __future__ import annotations

import io
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.ranges import Ranges

_INTERVAL = 3.0
"""Seconds between two snapshots; more if they take long, so that they never take over a twentieth of the time."""

_WORTHWHILE = 1.0
"""Seconds that a finished pass must have taken to be kept."""

Arrays = Mapping[str, Array]


@dataclass
class Share:
    """What one thread has counted, and of which tiles: the two always agree while its lock is held.

    Attributes:
        arrays: counts, by name; what several threads have counted is put together.
        is_whole: whether that is so; not if counting a tile was broken off.
        done: ranges of tensors, by the tensors' positions in the scope.
    """

    arrays: Arrays
    is_whole: bool = True
    done: list[tuple[int, int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counting(self, ranges: Iterable[tuple[int, int, int]]) -> Iterator[None]:
        """While these are counted."""
        with self.lock:
            self.is_whole = False
            yield
            self.done.extend(ranges)
            self.is_whole = True


class Snapshots:
    """One pass, with what an earlier run counted of it.

    Args:
        file: where it is kept; None if it is not.
        vouches: says whether all that was counted so far may be relied upon.
        expected: the shapes of the arrays that a thread fills, by name; a snapshot with others is of another search.
        merge: adds to an array what another thread has in its array of that name.
        together: arrays that all threads fill in different places, where there are such.
    """

    def __init__(
        self,
        file: Path | None,
        vouches: Callable[[], bool],
        merge: Callable[[Array, Array], None],
        together: Arrays,
        expected: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._file = file
        self._merge = merge
        self._vouches = vouches
        self._together = together
        self._shares: list[Share] = []
        self._done: dict[int, Ranges] = {}
        self._turn = threading.Lock()
        self._began = time.monotonic()
        self._due = self._began + _INTERVAL
        self.restored: dict[str, Array] = {}
        if file is not None:
            self._restore(file, {**expected, **{name: array.shape for name, array in together.items()}})

    def share(self, arrays: Arrays) -> Share:
        """A thread's own part."""
        self._shares.append(Share(arrays))
        return self._shares[-1]

    def left(self, work: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are still to be counted."""
        done = self._done.get(work)
        return iter([(start, stop)]) if done is None else done.missing(start, stop)

    def keep_if_due(self) -> None:
        """Take a snapshot if the last one is old; called between tiles, from any thread."""
        if self._file is None or time.monotonic() < self._due or not self._turn.acquire(blocking=False):
            return
        try:
            self.keep(self._file)
        finally:
            self._turn.release()

    def keep_finished(self) -> None:
        """Take a snapshot of all of it, if it took so long that nobody would want to do it again."""
        if self._file is not None and time.monotonic() - self._began > _WORTHWHILE:
            self.keep(self._file)

    def keep(self, file: Path) -> None:
        """Take a snapshot."""
        began = time.monotonic()
        done, totals = self._collected()
        ranges = np.array([(k, *r) for k, ranges in sorted(done.items()) for r in ranges], np.int64).reshape(-1, 3)
        if self._vouches() and all(share.is_whole for share in self._shares):
            _write(file, {**totals, "done": ranges})
        now = time.monotonic()
        self._due = now + max(_INTERVAL, 20 * (now - began))

    def _collected(self) -> tuple[dict[int, Ranges], dict[str, Array]]:
        totals = {name: array.copy() for name, array in self.restored.items()}
        for share in self._shares:
            with share.lock:
                self._add(totals, share.arrays)
                for work, start, stop in share.done:
                    self._done_in(work).add(start, stop)
                share.done.clear()
        return self._done, {**totals, **self._together}

    def _add(self, totals: dict[str, Array], arrays: Arrays) -> None:
        for name, array in arrays.items():
            if name in totals:
                self._merge(totals[name], array)
            else:
                totals[name] = array.copy()

    def _done_in(self, work: int) -> Ranges:
        return self._done.setdefault(work, Ranges())

    def _restore(self, file: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
        found = _read(file)
        done = found.pop("done", np.zeros((0, 3), np.int64))
        if {name: array.shape for name, array in found.items()} != expected:
            return
        for work, start, stop in done.tolist():
            self._done_in(work).add(start, stop)
        for name, array in found.items():
            if name in self._together:
                self._together[name][...] = array
            else:
                self.restored[name] = array


def _write(file: Path, arrays: Mapping[str, Array]) -> None:
    """Replace a snapshot by a newer one; one of them is always there, with a checksum."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    contents = stream.getbuffer()
    file.parent.mkdir(exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(b"%08x" % zlib.crc32(contents) + contents)
    os.replace(fresh, file)


def _read(file: Path) -> dict[str, Array]:
    """A snapshot; nothing if there is none, or if it was not written to its end."""
    with suppress(OSError):
        contents = file.read_bytes()
        if contents[:8] == b"%08x" % zlib.crc32(contents[8:]):
            with np.load(io.BytesIO(contents[8:]), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    return {}
