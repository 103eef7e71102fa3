"""The files that an input is read from, and whether they are still what they were."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weft.errors import MergeError


class ChangedError(MergeError):
    """An input is not what it was when it was opened: what was made of it is worth nothing."""


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when it was opened.

    Attributes:
        path: where it is.
        size: bytes.
        mtime_ns: when it was last written, in nanoseconds.
    """

    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def opened(cls, path: Path, descriptor: int) -> SourceFile:
        """What an open descriptor tells of its file."""
        told = os.fstat(descriptor)
        return cls(path, told.st_size, told.st_mtime_ns)

    @classmethod
    def at(cls, path: Path) -> SourceFile:
        """A file as it is now."""
        told = path.stat()
        return cls(path, told.st_size, told.st_mtime_ns)

    def difference(self) -> str:
        """What is not as it was, in words; empty if all is."""
        try:
            now = self.path.stat()
        except OSError:
            return "is gone"
        if now.st_size != self.size:
            return f"had {self.size:,} bytes and has {now.st_size:,}"
        return "" if now.st_mtime_ns == self.mtime_ns else "was written to"


def check_unchanged(files: Iterable[SourceFile]) -> None:
    """See that inputs are still what they were when they were opened.

    Raises:
        ChangedError: naming the first that is not.
    """
    for file in files:
        if difference := file.difference():
            raise ChangedError(f"{file.path} {difference} while it was being read; what was made of it is not used")
