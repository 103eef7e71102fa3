"""Writing so that the output appears complete or not at all.

Everything goes into a staging folder beside the output. Files have their final size from the start and are written in
place, from any thread, in any order. Committing means: sync every file, sync the folder, rename it into place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from weft.checkpoints.checkpoint import Array
from weft.checkpoints.layout import Layout
from weft.errors import InputError, MergeError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; the staging folder itself still keeps writers apart in time
    fcntl = None  # type: ignore[assignment]


class Staging:
    """An output in the making.

    Args:
        target: the folder, or `.safetensors` file, that shall appear.
        layout: its files.

    Use `staging(...)`, which cleans up after a failure.
    """

    def __init__(self, target: Path, layout: Layout) -> None:
        self.target = target
        self.folder = target.parent / f".{target.name}.weft-staging"
        self._layout = layout
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}

    def prepare(self) -> None:
        """Create the files at their final size, headers written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for shard in self._layout.shards:
            descriptor = os.open(self.folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            self._descriptors.append(descriptor)
            _reserve(descriptor, shard.size)
            os.pwrite(descriptor, shard.header, 0)
            self._places.update((name, (descriptor, offset)) for name, offset in shard.offsets.items())
        if self._layout.index is not None:
            (self.folder / self._layout.index_name).write_bytes(self._layout.index)

    def write(self, name: str, start: int, values: Array) -> None:
        """Write elements of a tensor, beginning with element `start`. Safe from several threads."""
        descriptor, offset = self._places[name]
        view = memoryview(values.data).cast("B")
        position = offset + start * values.itemsize
        while view:
            count = os.pwrite(descriptor, view, position)
            view = view[count:]
            position += count

    def commit(self, overwrite: bool) -> None:
        """Make it durable and visible."""
        for descriptor in self._descriptors:
            os.fsync(descriptor)
        self.close()
        _sync_tree(self.folder)
        finished = self.folder
        if self.target.suffix == ".safetensors":
            finished = self.folder / self._layout.shards[0].name
        _put(finished, self.target, overwrite)
        shutil.rmtree(self.folder, ignore_errors=True)
        _sync(self.target.parent)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())


@contextmanager
def staging(target: Path, layout: Layout) -> Iterator[Staging]:
    """A prepared staging area; on any failure it is removed and the target is as it was.

    Raises:
        InputError: if another process is writing the same output.
        MergeError: if the disk refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            area = Staging(target, layout)
            try:
                area.prepare()
                yield area
            finally:
                area.close()
                shutil.rmtree(area.folder, ignore_errors=True)
    except OSError as error:
        raise MergeError(f"cannot write {target}: {error.strerror or error}") from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other processes away. The lock file is removed at the end, by its holder."""
    path = target.parent / f".{target.name}.weft-lock"
    file = _lock(path, target)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        file.close()


def _lock(path: Path, target: Path) -> IO[str]:
    while True:
        file = path.open("w")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                return file
        except BlockingIOError:
            file.close()
            raise InputError(f"another merge is writing {target}", "wait for it, or choose another output") from None
        file.close()  # its last holder removed it between our opening and our locking: lock the new one


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _put(finished: Path, target: Path, overwrite: bool) -> None:
    """Rename into place. What was there is put aside first, and put back if the renaming fails."""
    if not overwrite and target.exists():
        raise MergeError(f"{target} appeared while we were merging; nothing was overwritten")
    if not target.is_dir():
        os.replace(finished, target)
        return
    old = target.parent / f".{target.name}.weft-old"
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    try:
        os.rename(finished, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place) / name)
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
