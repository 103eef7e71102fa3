"""Writing so that the output appears complete or not at all, and so that a merge that was killed can go on.

Everything goes into a staging folder beside the output: the files in the making, of their final size from the start
and written in place, from any thread, in any order; and a logbook of what is done. Committing means: sync every file,
sync the folder, rename it into place. The staging folder outlives whatever happens before that.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from weft.checkpoints.beside import JOURNAL, STAGING, beside, check_beside
from weft.checkpoints.checkpoint import Array
from weft.checkpoints.layout import Layout
from weft.checkpoints.locking import locked
from weft.checkpoints.logbook import Logbook, Record, read_records
from weft.checkpoints.positioned import begin_writing_back, reserve, write_at
from weft.checkpoints.swap import put, recover, sync, sync_tree
from weft.errors import MergeError

_OPENED = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
Identity = Mapping[str, Any]
"""What an output is made of; JSON. Work is taken up again only for the same."""


class Staging:
    """An output in the making.

    Args:
        target: the folder, or `.safetensors` file, that shall appear.
        layout: its files.
        identity: what it is made of; None if that cannot be told again, and nothing shall be kept.

    Attributes:
        output: the folder with the files in the making.
        logbook: what is done, where that is kept.
        is_worthless: whether nobody should go on from here, as an input is at fault.

    Use `staging(...)`, which locks, and cleans up.
    """

    def __init__(self, target: Path, layout: Layout, identity: Identity | None = None) -> None:
        self.target = target
        self.folder = beside(target, STAGING)
        self.output = self.folder / "output"
        self.logbook: Logbook | None = None
        self.is_worthless = False
        self._layout = layout
        self._identity = identity
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}

    def prepare(self) -> None:
        """Open the files of an earlier run for the same output; else create them at their final size."""
        if self._is_left():
            self._remove_strays()
        else:
            self.discard()
            self.output.mkdir(parents=True)
            for folder in (self.output, self.folder, self.target.parent):
                sync(folder)
        for shard in self._layout.shards:
            file = self.output / shard.name
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, _OPENED, 0o666)
            self._descriptors.append(descriptor)
            if os.fstat(descriptor).st_size != shard.size:
                reserve(descriptor, shard.size)
            _write_all(descriptor, memoryview(shard.header), 0)
            self._places.update((name, (descriptor, offset)) for name, offset in shard.offsets.items())
        for name, content in self._layout.indices.items():
            (self.output / name).write_bytes(content)
        if self._identity is not None:
            self.logbook = Logbook(self.folder / JOURNAL)
            if not self.logbook.records:
                self.logbook.append({"identity": self._identity})

    def write(self, name: str, start: int, values: Array) -> None:
        """Write elements of a tensor, beginning with element `start`. Safe from several threads."""
        descriptor, offset = self._places[name]
        _write_all(descriptor, memoryview(values.data).cast("B"), offset + start * values.itemsize)

    def write_whole(self, names: Sequence[str], sizes: Sequence[int], values: Array) -> None:
        """Write all elements of several tensors, one after the other; those that lie so in a file at once."""
        view, width = memoryview(values.data).cast("B"), values.itemsize
        first = last = 0  # bytes of the stretch that is collected
        place: tuple[int, int] | None = None
        for name, size in zip(names, sizes, strict=True):
            descriptor, offset = self._places[name]
            if place != (descriptor, offset - last):
                if place is not None:
                    _write_all(place[0], view[first:last], place[1] + first)
                first, place = last, (descriptor, offset - last)
            last += size * width
        if place is not None:
            _write_all(place[0], view[first:last], place[1] + first)

    def begin_sync(self) -> None:
        """Begin to bring what is written to the disk, which has nothing to do while we compute."""
        for descriptor in tuple(self._descriptors):
            begin_writing_back(descriptor)

    def sync(self) -> None:
        """Make what is written survive a power failure."""
        for descriptor in tuple(self._descriptors):
            os.fsync(descriptor)

    def commit(self, overwrite: bool) -> None:
        """Make it durable and visible, and remove the staging folder."""
        self.sync()
        self._close_files()
        sync_tree(self.output)
        if self.logbook is not None:
            files = {shard.name: shard.size for shard in self._layout.shards}
            self.logbook.append({"commit": {"id": _id(self._finished), "files": files}})
            self.logbook.sync()
        put(self._finished, self.target, overwrite)
        sync(self.target.parent)
        self.close()
        _remove(self.folder, last=JOURNAL)  # until then it tells that the output is in its place
        recover(self.target, is_new=True)

    def close(self) -> None:
        """Close the files."""
        self._close_files()
        if self.logbook is not None:
            self.logbook.close()
            self.logbook = None

    def discard(self) -> None:
        """Remove what is there."""
        discard(self.folder)

    @property
    def is_resumable(self) -> bool:
        """Whether another run can go on from what is on disk now."""
        records = read_records(self.folder / JOURNAL)
        return self._identity is not None and bool(records) and records[0].get("identity") == self._identity

    @property
    def _finished(self) -> Path:
        """What is put into the output's place: the folder, or its only file."""
        return self.output / self._layout.shards[0].name if self.target.suffix == ".safetensors" else self.output

    def _is_left(self) -> bool:
        """Whether an earlier run left this very output, with all of its files; and not what was in its place before."""
        if not self.is_resumable:
            return False
        files = ((self.output / shard.name, shard.size) for shard in self._layout.shards)
        if not all(_is_file_of(file, size) for file, size in files):
            return False
        commit = last_commit(read_records(self.folder / JOURNAL))
        return not commit or commit.get("id") == _id(self._finished)

    def _remove_strays(self) -> None:
        """Files that an earlier run put beside the weights are put there anew."""
        shards = {self.output / shard.name for shard in self._layout.shards}
        for path in list(self.output.rglob("*")):
            if path not in shards and not path.is_dir():
                path.unlink()

    def _close_files(self) -> None:
        self._places.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())


@contextmanager
def staging(target: Path, layout: Layout, identity: Identity | None = None, restart: bool = False) -> Iterator[Staging]:
    """A prepared staging area.

    Whatever an earlier run left of the same output is taken up. After a failure the area stays, so that the next run
    can go on; unless nothing was kept, or it is worthless.

    Args:
        target: what shall appear.
        layout: its files.
        identity: see `Staging`.
        restart: begin anew whatever was left.

    Raises:
        InputError: if another process is writing the same output.
        MergeError: if the disk refuses.
    """
    check_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            recover(target)
            area = Staging(target, layout, identity)
            if restart:
                area.discard()
            with _closing(area):
                area.prepare()
                yield area
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise MergeError(f"cannot write {target}: {where}{error.strerror or error}") from error


@contextmanager
def _closing(area: Staging) -> Iterator[None]:
    """Close it at the end, and remove it unless another run can go on from it."""
    try:
        yield
    finally:
        area.close()
        if area.is_worthless or not area.is_resumable:
            area.discard()


def _id(path: Path) -> list[int]:
    """What a file system knows a file or folder by, wherever it is moved."""
    told = path.stat()
    return [told.st_dev, told.st_ino]


def _is_file_of(path: Path, size: int) -> bool:
    """Whether this is a file itself, not a link to one, of this size."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def discard(folder: Path) -> None:
    """Remove a staging folder; first of all the logbook, so that what is left of the rest is never taken up."""
    with suppress(FileNotFoundError):
        if not folder.is_symlink():
            (folder / JOURNAL).unlink()
    _remove(folder)


def _remove(folder: Path, last: str = "") -> None:
    """Remove a folder, one of the files in it after all others. Of a link, the link."""
    if folder.is_symlink():
        folder.unlink()
        return
    for path in list(folder.glob("*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != last:
            path.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def last_commit(records: Sequence[Record]) -> dict[str, Any]:
    """What the last attempt to put an output in its place noted; empty if there was none."""
    commits = [record["commit"] for record in records if isinstance(record.get("commit"), dict)]
    return commits[-1] if commits else {}


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = write_at(descriptor, view, position)
        view = view[count:]
        position += count
