"""One writer for one output: advisory locks, held for as long as a process lives and works."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from weft.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

LOCK = "weft-lock"
_TRIES, _PAUSE = 5, 0.05


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes away from an output. The lock file is removed at the end, by its holder.

    Raises:
        InputError: if another process has it.
    """
    path = _lock_path(target)
    file = _lock(path, target)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        file.close()


def is_locked(target: Path) -> bool:
    """Whether another process is writing an output now."""
    try:
        with _lock_path(target).open() as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def busy(target: Path) -> InputError:
    """The error that says so."""
    return InputError(f"another merge is writing {target}", "wait for it, or choose another output")


def _lock_path(target: Path) -> Path:
    return target.parent / f".{target.name}.{LOCK}"


def _lock(path: Path, target: Path) -> IO[str]:
    tries = 0
    while True:
        file = path.open("w")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                return file
        except BlockingIOError:
            tries += 1
            if tries == _TRIES:
                file.close()
                raise busy(target) from None
            time.sleep(_PAUSE)  # somebody may only be looking whether it is locked
        file.close()  # its last holder removed it between our opening and our locking: lock the new one


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
