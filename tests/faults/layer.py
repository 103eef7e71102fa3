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
DEATHS = ("before", "after", "half")


@dataclass
class Layer:
    """Counts calls, and strikes at one of them.

    Attributes:
        strike_at: which call, counted from 1; 0 for none.
        kind: `before`, `after`, `half`, `power`, or the name of an error such as `ENOSPC`.
        seed: for what a power failure takes.
        log: the calls so far.
    """

    strike_at: int = 0
    kind: str = "before"
    seed: int = 0
    log: list[str] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)
    _unsynced: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _ends: dict[str, int] = field(default_factory=dict)

    def call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """One call of the operating system."""
        with self._lock:
            self.log.append(name)
            strikes = len(self.log) == self.strike_at
        if not strikes:
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
                real(*args, **options)
            if self.kind == "power":
                self._lose()
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Remember what a power failure could take."""
        if self.kind != "power" or name not in ("write", "pwrite", "fsync"):
            return
        path = os.readlink(f"/proc/self/fd/{args[0]}")
        with self._lock:
            if name == "fsync":
                self._unsynced.pop(path, None)
                return
            start = args[2] if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR) - result
            self._unsynced.setdefault(path, []).append((start, start + result))

    def _lose(self) -> None:
        """The disk has some of what was not synced, and zeros for the rest."""
        draw = random.Random(self.seed)
        for path, ranges in self._unsynced.items():
            for start, stop in ranges:
                if draw.random() < 0.7 and os.path.exists(path):
                    with _REAL_OPEN(path, "r+b") as file:
                        file.seek(start)
                        file.write(bytes(stop - start))


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
