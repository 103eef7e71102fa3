"""Writing so that the output appears complete or not at all, and so that a merge that was killed can go on.

Everything goes into a staging folder beside the output: the files in the making, of their final size from the start
and written in place, from any thread, in any order; and a logbook of what is done. Committing means: sync every file,
sync the folder, rename it into place. The staging folder outlives whatever happens before that.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Array
from weft.checkpoints.layout import Layout
from weft.checkpoints.locking import LOCK, busy, is_locked, locked
from weft.checkpoints.logbook import Logbook, Record, read_records
from weft.checkpoints.positioned import begin_writing_back, reserve, write_at
from weft.checkpoints.sources import ChangedError
from weft.checkpoints.swap import OLD, old_path, put, recover, sync, sync_tree
from weft.errors import InputError, MergeError

STAGING = "weft-staging"
_JOURNAL = "journal"
Identity = Mapping[str, Any]
"""What an output is made of; JSON. Work is taken up again only for the same."""


def staging_path(target: Path) -> Path:
    """The staging folder of an output."""
    return _beside(target, STAGING)


@dataclass(frozen=True)
class Begun:
    """What an earlier run left.

    Attributes:
        folder: the staging folder.
        identity: what it was making; empty if that is not known.
        records: what it noted.
        committed: whether the output it was making is in its place already.
    """

    folder: Path
    identity: Identity
    records: list[Record]
    committed: bool


def find_begun(target: Path) -> Begun | None:
    """What an earlier run left of this output, only looked at. None if there is nothing of use.

    Raises:
        InputError: if another process is writing it now.
    """
    folder = staging_path(target)
    if is_locked(target):
        raise busy(target)
    records = read_records(folder / _JOURNAL)
    if not records:
        return None
    return Begun(folder, records[0].get("identity", {}), records, _is_committed(records, target))


class Staging:
    """An output in the making.

    Args:
        target: the folder, or `.safetensors` file, that shall appear.
        layout: its files.
        identity: what it is made of; None if that cannot be told again, and nothing shall be kept.

    Attributes:
        output: the folder with the files in the making.
        logbook: what is done, where that is kept.

    Use `staging(...)`, which locks, and cleans up.
    """

    def __init__(self, target: Path, layout: Layout, identity: Identity | None = None) -> None:
        self.target = target
        self.folder = staging_path(target)
        self.output = self.folder / "output"
        self.logbook: Logbook | None = None
        self._layout = layout
        self._identity = identity
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}

    def prepare(self) -> None:
        """Open the files of an earlier run for the same output; else create them at their final size."""
        if not (self._identity is not None and self._is_left()):
            self.discard()
            self.output.mkdir(parents=True)
        else:
            self._remove_strays()
        for shard in self._layout.shards:
            file = self.output / shard.name
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            self._descriptors.append(descriptor)
            if os.fstat(descriptor).st_size != shard.size:
                reserve(descriptor, shard.size)
            _write_all(descriptor, memoryview(shard.header), 0)
            self._places.update((name, (descriptor, offset)) for name, offset in shard.offsets.items())
        for name, content in self._layout.indices.items():
            (self.output / name).write_bytes(content)
        if self._identity is not None:
            self.logbook = Logbook(self.folder / _JOURNAL)
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
        for descriptor in self._descriptors:
            begin_writing_back(descriptor)

    def sync(self) -> None:
        """Make what is written survive a power failure."""
        for descriptor in self._descriptors:
            os.fsync(descriptor)

    def commit(self, overwrite: bool) -> None:
        """Make it durable and visible, and remove the staging folder."""
        self.sync()
        self._close_files()
        sync_tree(self.output)
        finished = self.output
        if self.target.suffix == ".safetensors":
            finished = self.output / self._layout.shards[0].name
        if self.logbook is not None:
            self.logbook.append({"commit": finished.stat().st_ino})
            self.logbook.sync()
        put(finished, self.target, overwrite)
        sync(self.target.parent)
        self.close()
        _remove(self.folder, last=_JOURNAL)  # until then it tells that the output is in its place
        recover(self.target)

    def close(self) -> None:
        """Close the files."""
        self._close_files()
        if self.logbook is not None:
            self.logbook.close()
            self.logbook = None

    def discard(self) -> None:
        """Remove what is there."""
        _discard(self.folder)

    def _is_left(self) -> bool:
        """Whether an earlier run left this very output, with all of its files."""
        records = read_records(self.folder / _JOURNAL)
        if not records or records[0].get("identity") != self._identity:
            return False
        files = ((self.output / shard.name, shard.size) for shard in self._layout.shards)
        return all(file.is_file() and file.stat().st_size == size for file, size in files)

    def _remove_strays(self) -> None:
        """Files that an earlier run put beside the weights are put there anew."""
        shards = {self.output / shard.name for shard in self._layout.shards}
        for path in list(self.output.rglob("*")):
            if path not in shards and not path.is_dir():
                path.unlink()

    def _close_files(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


@contextmanager
def staging(target: Path, layout: Layout, identity: Identity | None = None, restart: bool = False) -> Iterator[Staging]:
    """A prepared staging area.

    Whatever an earlier run left of the same output is taken up. After a failure the area stays, so that the next run
    can go on; unless nothing was kept, or the inputs themselves were at fault.

    Args:
        target: what shall appear.
        layout: its files.
        identity: see `Staging`.
        restart: begin anew whatever was left.

    Raises:
        InputError: if another process is writing the same output.
        MergeError: if the disk refuses.
    """
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
    is_kept = False
    try:
        yield
    except (InputError, ChangedError):
        raise
    except BaseException:
        is_kept = area.logbook is not None
        raise
    finally:
        area.close()
        if not is_kept:
            area.discard()


def remove_begun(target: Path) -> None:
    """Remove what an earlier run left of an output, after bringing back what it had put aside.

    Raises:
        InputError: if another process is writing it now.
    """
    with locked(target):
        recover(target)  # what was put aside comes back, or goes
        _discard(staging_path(target))


@dataclass(frozen=True)
class Abandoned:
    """What an earlier run left and nobody is working on.

    Attributes:
        target: the output that it was making.
        size: bytes on disk.
        seconds: since it was last written to.
    """

    target: Path
    size: int
    seconds: float

    @property
    def folder(self) -> Path:
        """The staging folder."""
        return staging_path(self.target)


def find_abandoned(place: Path) -> Iterator[Abandoned]:
    """What earlier runs left, and nobody is writing.

    Args:
        place: a folder with outputs, or an output.

    Raises:
        InputError: if there is no such place.
    """
    kinds = (STAGING, OLD, LOCK)
    names = [place] if any(_beside(place, kind).exists() for kind in kinds) else []
    if not names and not place.is_dir():
        raise InputError(f"no such folder or unfinished output: {place}", "check the path")
    for kind in kinds if place.is_dir() else ():
        names += (place / path.name.removeprefix(".").removesuffix(f".{kind}") for path in place.glob(f".*.{kind}"))
    for target in dict.fromkeys(sorted(names)):
        if not is_locked(target):
            yield Abandoned(target, left_size(target), _idle(target))


def _idle(target: Path) -> float:
    places = [*staging_path(target).glob("*"), *(_beside(target, kind) for kind in (STAGING, OLD, LOCK))]
    return max(time.time() - max((p.stat().st_mtime for p in places if p.exists()), default=0.0), 0.0)


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}"


def left_size(target: Path) -> int:
    """Bytes on disk that an unfinished output takes."""
    places = (staging_path(target), old_path(target))
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    return sum(getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512 for file in files for stat in [file.stat()])


def _discard(folder: Path) -> None:
    """Remove a staging folder; first of all the logbook, so that what is left of the rest is never taken up."""
    with suppress(FileNotFoundError):
        (folder / _JOURNAL).unlink()
    _remove(folder)


def _remove(folder: Path, last: str = "") -> None:
    """Remove a folder, one of the files in it after all others."""
    for path in list(folder.glob("*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != last:
            path.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def _is_committed(records: list[Record], target: Path) -> bool:
    inodes = [record["commit"] for record in records if "commit" in record]
    with suppress(OSError):
        return bool(inodes) and target.stat().st_ino == inodes[-1]
    return False


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = write_at(descriptor, view, position)
        view = view[count:]
        position += count
