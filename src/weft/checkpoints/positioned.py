"""Reading and writing at a place of an open file, from many threads; locks on files; space set aside. On any system.

Linux has everything. macOS has no `posix_fallocate`, and `preadv` only in some builds of Python. Windows has no
positioned reads and writes at all: there a thread seeks and reads while it holds the file's lock.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
from contextlib import suppress
from threading import Lock
from typing import IO, Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

msvcrt: Any
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None

_MOST = 1 << 30
"""Bytes of one call: macOS refuses 2 GiB and more."""

_SEEKING = tuple(Lock() for _ in range(64))
"""Who may move the place of a file: by the number of its descriptor, so that files rarely wait for others."""

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What the systems answer when somebody else has a lock."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems answer that know no locks, as some of clusters do."""


def read_at(descriptor: int, view: memoryview, position: int) -> int:
    """Fill a buffer from a place of a file. Safe from several threads, if all use this.

    Args:
        descriptor: of a file that is open for reading, in binary mode.
        view: writable bytes.
        position: the byte of the file to begin at.

    Returns:
        How many bytes came, which may be fewer than asked for; 0 at the end of the file.

    Raises:
        OSError: if it cannot be read.
    """
    view = view[:_MOST]
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], position)
    if hasattr(os, "pread"):
        data = os.pread(descriptor, len(view), position)
        view[: len(data)] = data
        return len(data)
    with _SEEKING[descriptor % len(_SEEKING)], io.FileIO(descriptor, "rb", closefd=False) as file:
        file.seek(position)
        return file.readinto(view) or 0


def write_at(descriptor: int, view: memoryview, position: int) -> int:
    """Write bytes to a place of a file. Safe from several threads, if all use this.

    Args:
        descriptor: of a file that is open for writing, in binary mode.
        view: bytes.
        position: the byte of the file to begin at.

    Returns:
        How many bytes went, which may be fewer than given.

    Raises:
        OSError: if it cannot be written.
    """
    view = view[:_MOST]
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, view, position)
    with _SEEKING[descriptor % len(_SEEKING)]:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, view)


def begin_writing_back(descriptor: int) -> None:
    """Ask the system to bring to the disk what was written so far, without waiting for it. Where it can."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _BEGIN)


def _found(name: str) -> Any:
    """A function of the system's library, if it is there."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None


_sync_file_range, _BEGIN = _found("sync_file_range"), 2


def reserve(descriptor: int, size: int) -> None:
    """Give a file its size. Where the system can, the space is set aside, so that a full disk is noticed now.

    Raises:
        OSError: if there is not so much space.
    """
    os.ftruncate(descriptor, 0)
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:  # some file systems cannot
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock a file for this process until it is closed, unless somebody else has locked it.

    Args:
        file: open for reading, or for writing.
        shared: whether others may hold such a lock too. Windows has none of these; there it keeps others away.

    Returns:
        Whether the lock is ours. Always, on a system that has no locks.

    Raises:
        OSError: if the file system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif msvcrt is not None:
            with suppress(io.UnsupportedOperation):
                file.seek(0)  # what is locked begins where the file stands
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True
