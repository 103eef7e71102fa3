"""Safetensors on disk: one file or several, read in ranges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.header import Header, read_header
from weft.checkpoints.plain_files import open_file
from weft.checkpoints.positioned import read_at
from weft.checkpoints.readahead import ReadAhead
from weft.checkpoints.sources import ChangedError, SourceFile
from weft.errors import InputError, MergeError

INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class Stretch:
    """A tensor whose bytes lie in an open file without a gap.

    Attributes:
        descriptor, file: the file, open.
        offset: its byte at which the tensor begins.
        ahead: reads small tensors together.
    """

    descriptor: int
    file: Path
    offset: int
    ahead: ReadAhead

    def read(self, spec: TensorSpec, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; fills the buffer.

        Raises:
            MergeError: if the file cannot be read, or has become shorter.
        """
        wanted = buffer[: (stop - start) * spec.dtype.itemsize]
        view = memoryview(wanted.data)
        position = self.offset + start * spec.dtype.itemsize
        while view:
            count = self._read_into(view, position, spec.name)
            view = view[count:]
            position += count
        return wanted.view(spec.dtype.storage)

    def _read_into(self, view: memoryview, position: int, name: str) -> int:
        try:
            count = self.ahead.read(self.descriptor, view, position)
        except OSError as error:
            what = f"{self.file}: cannot read tensor {name!r} at byte {position}: {error.strerror}"
            raise MergeError(what) from error
        if count == 0:
            raise ChangedError(f"{self.file}: ends before tensor {name!r} does; it was cut short while we read it")
        return count


class SafetensorsCheckpoint(Checkpoint):
    """Tensors in one or several safetensors files, read with `pread`: nothing is mapped, nothing is held.

    Args:
        path: the file or folder that the user named.
        files: the safetensors files, all of them.
        stem: what the files are called, without numbers of shards and suffix.

    Raises:
        InputError: for a file that is missing or damaged, or a tensor that two files hold.
    """

    def __init__(self, path: Path, files: Sequence[Path], stem: str = "model") -> None:
        self.path = path
        self.label = str(path)
        self.tied = MappingProxyType({})
        self.stem = stem
        self._descriptors: list[int] = []
        self._sources: list[SourceFile] = []
        self._headers: list[Header] = []  # kept, so that a checkpoint with the same ones need not parse them
        self._ahead = ReadAhead()
        self._places: dict[str, Stretch] = {}
        tensors: dict[str, TensorSpec] = {}
        metadata: dict[str, str] = {}
        try:
            for file in files:
                self._add(file, tensors, metadata)
        except BaseException:  # whatever happened, the files that are open already are not left open
            self.close()
            raise
        self.tensors = MappingProxyType(tensors)
        self.metadata = MappingProxyType(metadata)

    def _add(self, file: Path, tensors: dict[str, TensorSpec], metadata: dict[str, str]) -> None:
        try:
            stream = open_file(file)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}", "check the path and the permissions") from None
        with stream:
            header = read_header(stream, file, os.fstat(stream.fileno()).st_size)
            descriptor = os.dup(stream.fileno())
        self._descriptors.append(descriptor)
        self._sources.append(SourceFile.opened(file, descriptor))
        self._headers.append(header)
        for name in header.tensors.keys() & tensors.keys():
            raise InputError(f"{file}: tensor {name!r} is also in {self._places[name].file}", "keep one of the two")
        tensors.update(header.tensors)
        metadata.update(header.metadata)
        self._places.update(
            (name, Stretch(descriptor, file, offset, self._ahead)) for name, offset in header.offsets.items()
        )

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; fills the buffer."""
        return self._places[name].read(self.tensors[name], start, stop, buffer)

    def read_whole(self, names: Sequence[str], buffer: Array) -> None:
        """See `Checkpoint.read_whole`; tensors that follow each other in a file are read at once."""
        together: list[str] = []
        first = last = 0  # bytes of the stretch that is collected
        place: tuple[int, int] | None = None
        places, tensors = self._places, self.tensors
        for name in names:
            own = places[name]
            if place != (own.descriptor, own.offset - last):
                self._read_together(together, place, buffer[first:last])
                together, first, place = [], last, (own.descriptor, own.offset - last)
            together.append(name)
            last += tensors[name].nbytes
        self._read_together(together, place, buffer[first:last])

    def _read_together(self, names: Sequence[str], place: tuple[int, int] | None, buffer: Array) -> None:
        """Read tensors that lie without a gap; one by one if that fails, so that an error names the tensor."""
        if len(names) > 1 and place is not None:
            with suppress(OSError):
                if read_at(place[0], memoryview(buffer.data), self._places[names[0]].offset) == len(buffer):
                    return
        super().read_whole(names, buffer)

    def file_of(self, name: str) -> str:
        """The path of the shard."""
        return str(self._places[name].file)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Its files."""
        return tuple(self._sources)

    @property
    def is_resident(self) -> bool:
        """False: every read goes to the file."""
        return False

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())
