"""Putting a finished output in its place: what was there stays whole until what comes is."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from weft.checkpoints.beside import OLD, beside
from weft.errors import MergeError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def old_path(target: Path) -> Path:
    """Where what a target held waits for a moment, if a file system cannot exchange two folders in one step."""
    return beside(target, OLD)


def put(finished: Path, target: Path, overwrite: bool) -> None:
    """Rename into place. With something there already: one of the two is whole at every instant.

    Linux exchanges two folders in one step. Elsewhere the old one is put aside first; `recover` mends what a crash
    between the two renames leaves.

    Args:
        finished: the folder or file; if the two were exchanged, the old output is found here afterwards.
        target: where it shall be.
        overwrite: whether something may be there.

    Raises:
        MergeError: if something is there that nobody allowed to replace.
    """
    if not overwrite and os.path.lexists(target):
        raise MergeError(f"{target} appeared while we were merging; nothing was overwritten")
    if not target.is_dir():
        os.replace(finished, target)
    elif not _exchanged(finished, target):
        _in_two_steps(finished, target)


def recover(target: Path, is_new: bool = False) -> None:
    """Bring back what was put aside for a replacement that a crash prevented.

    Args:
        target: the output.
        is_new: whether what lies there now is what was to replace the old; only then the old one is removed.
    """
    old = old_path(target)
    if not old.exists():
        return
    if not os.path.lexists(target):
        os.rename(old, target)
    elif is_new:
        shutil.rmtree(old)


def sync_tree(folder: Path) -> None:
    """Make a folder and all in it survive a power failure."""
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place) / name)
        sync(Path(place))


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, survive a power failure."""
    if path.is_dir() and os.name == "nt":  # there a folder cannot be opened, and needs not be
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _in_two_steps(finished: Path, target: Path) -> None:
    old = old_path(target)
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    try:
        os.rename(finished, target)
    except BaseException:
        with suppress(OSError):
            os.rename(old, target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
