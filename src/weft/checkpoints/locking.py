"""One writer for one output: advisory locks, held for as long as a process lives and works."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from weft.checkpoints.beside import LOCK, beside
from weft.checkpoints.positioned import try_lock
from weft.errors import InputError

_TRIES, _PAUSE = 5, 0.05


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes away from an output. The lock file is removed at the end, by its holder.

    Raises:
        InputError: if another process has it.
    """
    path = beside(target, LOCK)
    file = _lock(path, target)
    try:
        yield
    finally:
        if os.name == "nt":  # there a file that is open cannot be removed
            file.close()
        with suppress(OSError):
            if file.closed or _is(file, path):
                path.unlink()
        file.close()


def is_locked(target: Path) -> bool:
    """Whether another process is writing an output now."""
    try:
        with beside(target, LOCK).open("r+") as file:
            return not try_lock(file, shared=True)
    except PermissionError:
        return True  # another user's
    except OSError:
        return False


def busy(target: Path) -> InputError:
    """The error that says so."""
    return InputError(f"another process is writing {target}", "wait for it, or choose another output")


def _lock(path: Path, target: Path) -> IO[str]:
    tries = 0
    while True:
        file = path.open("a")
        if try_lock(file):
            if _is(file, path):
                return file
        else:
            tries += 1
            if tries == _TRIES:
                file.close()
                raise busy(target)
            time.sleep(_PAUSE)  # somebody may only be looking whether it is locked
        file.close()  # its last holder removed it between our opening and our locking: lock the new one


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
