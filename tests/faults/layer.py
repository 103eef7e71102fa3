"""A layer under everything that writes: it counts what is asked of the disk, and at a chosen moment something happens.

What happens is one of: the process dies before, after or halfway through the call; the call fails with an error of
the operating system; the power fails, which also takes what was not synced.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from weft.checkpoints import swap

CALLS = (
    "write", "pwrite", "fsync", "rename", "replace", "ftruncate", "posix_fallocate", "unlink", "rmdir", "mkdir",
)  # fmt: skip
_TAKES_SPACE = ("open", "write", "pwrite", "ftruncate", "posix_fallocate", "mkdir")


@dataclass
class Layer:
    """Counts calls, and strikes at one of them.

    Attributes:
        strike_at: which call, counted from 1; 0 for none.
        kind: `before`, `after`, `half`, `power`; the name of an error such as `ENOSPC`; or `full`: from this call on,
            nothing that takes space can be done any more.
        seed: for what a power failure takes.
        log: the calls so far.

    A power failure takes most of the pages that were written since their file was last synced, and may make such a
    file as short as it was then. Names of files are not lost: what was created, renamed or removed stays so.
    """

    strike_at: int = 0
    kind: str = "before"
    seed: int = 0
    log: list[str] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)
    _unsynced: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)
    _safe: dict[str, int] = field(default_factory=dict)

    def call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """One call of the operating system."""
        with self._lock:
            self.log.append(name)
            strikes = len(self.log) == self.strike_at
            is_full = self.kind == "full" and 0 < self.strike_at <= len(self.log) and name in _TAKES_SPACE
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not strikes or self.kind == "full":
            result = real(*args, **options)
            self._note(name, args, result)
            return result
        if self.kind.startswith("E"):
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number))
        with self._lock:  # nobody else writes any more
            if self.kind == "half" and name in ("write", "pwrite"):
                real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
            elif self.kind != "before":
                self._note(name, args, real(*args, **options))
            if self.kind == "power":
                self._lose()
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Remember what a power failure could take."""
        if self.kind != "power":
            return
        with self._lock:
            if name == "open":
                self._unsynced[os.fspath(args[0])] = [(0, None)]
            elif name in ("rename", "replace"):
                self._move(os.fspath(args[0]), os.fspath(args[1]))
            elif name in ("write", "pwrite", "fsync"):
                self._note_file(name, args, result)

    def _note_file(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        path = os.readlink(f"/proc/self/fd/{args[0]}")
        if name == "fsync":
            self._unsynced.pop(path, None)
            self._safe[path] = os.fstat(args[0]).st_size
            return
        start = args[2] if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR) - result
        self._unsynced.setdefault(path, []).append((start, start + result))

    def _move(self, old: str, new: str) -> None:
        """What is known of a file or folder holds under its new name."""
        for known in (self._unsynced, self._safe):
            for path in [path for path in known if path == old or path.startswith(f"{old}/")]:
                known[new + path.removeprefix(old)] = known.pop(path)  # type: ignore[index, assignment]

    def _lose(self) -> None:
        """Most pages of what was not synced are zeros on the disk, and files may be as short as they were."""
        draw = random.Random(self.seed)
        for path in filter(os.path.isfile, sorted(self._unsynced)):
            with _REAL_OPEN(path, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                for start, stop in self._unsynced[path]:
                    for begin, end in _pages(start, size if stop is None else min(stop, size)):
                        if draw.random() < 0.7:
                            file.seek(begin)
                            file.write(bytes(end - begin))
                if draw.random() < 0.3:
                    file.truncate(draw.randint(min(self._safe.get(path, 0), size), size))


def _pages(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """A range, cut where pages end."""
    while start < stop:
        end = min(start // _PAGE * _PAGE + _PAGE, stop)
        yield start, end
        start = end


_PAGE = 4096
_REAL_OPEN = builtins.open


@contextmanager
def faulty(layer: Layer) -> Iterator[Layer]:
    """Put the layer under this process."""
    real = {name: getattr(os, name) for name in CALLS}
    exchanged, opened = swap._exchanged, _REAL_OPEN

    def below(name: str) -> Callable[..., Any]:
        return lambda *args, **options: layer.call(name, real[name], *args, **options)

    def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return opened(file, mode, *args, **options)
        return layer.call("open", opened, file, mode, *args, **options)

    for name in CALLS:
        setattr(os, name, below(name))
    builtins.open = io.open = opening  # type: ignore[assignment]
    swap._exchanged = lambda *args: layer.call("exchange", exchanged, *args)
    try:
        yield layer
    finally:
        for name in CALLS:
            setattr(os, name, real[name])
        builtins.open = io.open = opened  # type: ignore[assignment]
        swap._exchanged = exchanged
