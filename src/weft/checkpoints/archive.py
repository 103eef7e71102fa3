"""The zip archive that torch saves: which entries it has and where their bytes lie.

Python and torch read archives with different code. What the one takes for the program must be what the other runs, so
an archive that two readers could understand differently is refused: entries of one name, more than one folder, bytes
before or after it. Nothing is unpacked: torch stores, it never compresses.
"""

from __future__ import annotations

import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from weft.checkpoints.plain_files import open_file
from weft.errors import listed

_END, _END_64, _LOCATOR_64 = 22, 56, 20
"""Bytes of the records that close an archive."""
_SHORT = 64
"""Bytes of an entry that holds a word, such as the byte order."""


class ArchiveError(Exception):
    """It is not an archive as torch writes them, or damaged; its text says how."""


class CompressedError(Exception):
    """Entries are compressed; its text names them."""


@dataclass(frozen=True)
class Archive:
    """What is needed of an archive.

    Attributes:
        program: the pickle.
        storages: by key, where its bytes begin in the file and how many they are.
        is_native: whether numbers are in this machine's byte order.
    """

    program: bytes
    storages: Mapping[str, tuple[int, int]]
    is_native: bool


def read_archive(file: Path, longest: int) -> Archive:
    """Look into an archive.

    Args:
        file: where it is.
        longest: bytes that the pickle may have.

    Raises:
        ArchiveError: if it is damaged, or could be read in two ways.
        CompressedError: if it is compressed.
    """
    try:
        with open_file(file) as stream:
            _check_end(stream)
            with zipfile.ZipFile(stream) as archive:
                return _read(archive, stream, longest)
    except (ArchiveError, CompressedError):
        raise
    except Exception as error:  # a stranger's archive can raise anything
        raise ArchiveError(f"{error or type(error).__name__}") from None


def _read(archive: zipfile.ZipFile, stream: BinaryIO, longest: int) -> Archive:
    found = archive.infolist()
    compressed = [i.filename for i in found if i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size]
    if compressed:
        raise CompressedError(listed(compressed, 2))
    roots = {info.filename.partition("/")[0] for info in found}
    if len(roots) > 1 or len({info.filename.lower() for info in found}) < len(found):
        raise ArchiveError("it has entries of the same name, or in several folders")
    entries = {info.filename.partition("/")[2]: info for info in found}
    order = _word(archive, entries.get("byteorder")) or "little"
    program = entries.get("data.pkl")
    if program is None or program.file_size > longest:
        raise ArchiveError("its data.pkl is missing or too long")
    storages = {
        name.removeprefix("data/"): (_begin(stream, info), info.file_size)
        for name, info in entries.items()
        if re.fullmatch(r"data/[^/]+", name)
    }
    if any(begin + size > archive.start_dir for begin, size in storages.values()):
        raise ArchiveError("an entry reaches beyond its end")
    return Archive(archive.read(program), storages, order == sys.byteorder)


def _word(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str:
    if info is None:
        return ""
    if info.file_size > _SHORT:
        raise ArchiveError(f"{info.filename} is too long")
    return archive.read(info).decode()


def _begin(stream: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its header, its name and an extra field, whose lengths the header holds."""
    stream.seek(info.header_offset + 26)
    lengths = stream.read(4)
    return info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _check_end(stream: BinaryIO) -> None:
    """The archive ends where the file does, and begins where the file does."""
    size = stream.seek(0, 2)
    stream.seek(max(size - _END - _LOCATOR_64 - _END_64, 0))
    tail = stream.read()
    if tail[-_END:][:4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise ArchiveError("it was cut off, or something follows it")
    length, begin = struct.unpack("<2L", tail[-10:-2])
    end = size - _END
    if tail[:4] == b"PK\x06\x06" and tail[_END_64:][:4] == b"PK\x06\x07":
        end -= _LOCATOR_64 + _END_64
        length, begin = struct.unpack("<2Q", tail[40:_END_64])
        if struct.unpack("<Q", tail[_END_64 + 8 :][:8])[0] != end:
            raise ArchiveError("something stands before it")
    if begin + length != end:
        raise ArchiveError("something stands before it")
