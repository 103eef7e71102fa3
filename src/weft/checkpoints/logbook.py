"""A file of small records that is only ever appended to, and that can be trusted after a crash.

Each record is one line: a checksum, a space, JSON. A process that dies leaves at most one line unfinished; what a
power failure leaves may be worse. Either way reading stops at the first line whose checksum does not fit, and
whoever goes on writing goes on from there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Logbook:
    """Records on disk, in the order in which they were appended.

    Args:
        path: the file; it is created if need be.

    Attributes:
        records: what was there already; what a crash left unfinished is cut off.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._descriptor = os.open(path, flags, 0o666)
        self._end = 0
        try:
            found = list(_parsed(_contents(self._descriptor)))
            self.records: list[Record] = [record for record, _ in found]
            self._ends = [end for _, end in found]
            self._truncate()
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Add a record. It survives the death of the process as soon as this returns; a power failure after `sync`.

        Raises:
            OSError: if it cannot be written; the file then ends where it did.
        """
        left = line = _line(record)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BaseException:
            with suppress(OSError):
                self._cut(self._end)
            raise
        self._end += len(line)

    def keep(self, count: int) -> None:
        """Forget all but the first `count` of the records that were there when the file was opened."""
        del self.records[count:], self._ends[count:]
        self._truncate()

    def sync(self) -> None:
        """Make everything that was appended survive a power failure."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; what is appended afterwards fails."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _truncate(self) -> None:
        self._cut(self._ends[-1] if self._ends else 0)

    def _cut(self, end: int) -> None:
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._end = end


def read_records(path: Path) -> list[Record]:
    """The records of a file, which is left as it is; none if there is no such file."""
    try:
        return [record for record, _ in _parsed(path.read_bytes())]
    except OSError:
        return []


def _contents(descriptor: int) -> bytes:
    parts = iter(lambda: os.read(descriptor, 1 << 20), b"")
    return b"".join(parts)


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(contents: bytes) -> Iterator[tuple[Record, int]]:
    """Every whole record, with the byte at which it ends."""
    end = 0
    while (newline := contents.find(b"\n", end)) >= 0:
        line, end = contents[end:newline], newline + 1
        if line[:8] != b"%08x" % zlib.crc32(line[9:]):
            return
        try:
            record = json.loads(line[9:].decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return
        if not isinstance(record, dict):
            return
        yield record, end
