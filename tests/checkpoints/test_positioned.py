"""Positioned reads and writes, reserved space and locks, with whatever of the system's means taken away."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from weft.checkpoints import positioned
from weft.checkpoints.positioned import read_at, reserve, try_lock, write_at

LACKING = {
    "Linux": (),
    "macOS": ("preadv", "posix_fallocate"),
    "Windows": ("preadv", "pread", "pwrite", "posix_fallocate"),
}


@pytest.fixture(params=LACKING)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in LACKING[request.param]:
        monkeypatch.delattr(os, name)
    return str(request.param)


def filled(path: Path, size: int) -> bytes:
    content = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(content)
    return content


def read_all(descriptor: int, size: int, position: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view and (count := read_at(descriptor, view, position)):
        view, position = view[count:], position + count
    return bytes(buffer)


def test_many_threads_read_one_file(system: str, tmp_path: Path) -> None:
    content = filled(tmp_path / "file", 1 << 20)
    places = np.random.default_rng(1).integers(0, len(content) - 5000, 4000).tolist()
    with (tmp_path / "file").open("rb") as file, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: read_all(file.fileno(), 5000, place), places))
    assert all(part == content[place : place + 5000] for place, part in zip(places, found, strict=True))


def test_many_threads_write_one_file(system: str, tmp_path: Path) -> None:
    content = np.random.default_rng(2).integers(0, 256, 1 << 20, np.uint8)
    places = np.random.default_rng(3).permutation(range(0, len(content), 1 << 8)).tolist()
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    reserve(descriptor, len(content))

    def write(place: int) -> int:
        return write_at(descriptor, memoryview(content[place : place + (1 << 8)].data), place)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, places)) == {1 << 8}
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == content.tobytes()


def test_at_the_end_nothing_comes(system: str, tmp_path: Path) -> None:
    filled(tmp_path / "file", 10)
    buffer = bytearray(8)
    with (tmp_path / "file").open("rb") as file:
        assert read_at(file.fileno(), memoryview(buffer), 7) == 3
        assert read_at(file.fileno(), memoryview(buffer), 10) == 0


def test_one_call_asks_for_no_more_than_every_system_gives(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positioned, "_MOST", 4)
    content = filled(tmp_path / "file", 10)
    buffer = bytearray(10)
    with (tmp_path / "file").open("r+b") as file:
        assert read_at(file.fileno(), memoryview(buffer), 0) == 4
        assert write_at(file.fileno(), memoryview(content), 0) == 4


def test_a_file_gets_its_size(system: str, tmp_path: Path) -> None:
    for size in (12345, 7, 0):
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        reserve(descriptor, size)
        os.close(descriptor)
        assert (tmp_path / "file").read_bytes() == bytes(size)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_set_space_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    reserve(descriptor, 99)
    assert os.fstat(descriptor).st_size == 99
    number = errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        reserve(descriptor, 99)
    os.close(descriptor)


class Regions:
    """`msvcrt` as documented: a region of a file is locked by one open file, and another gets EACCES."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.owners: dict[int, int] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count, os.lseek(descriptor, 0, os.SEEK_CUR)) == (self.LK_NBLCK, 1, 0)
        inode = os.fstat(descriptor).st_ino
        if self.owners.setdefault(inode, descriptor) != descriptor:
            raise PermissionError(errno.EACCES, "Permission denied")


def test_a_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fcntl, msvcrt in ((positioned.fcntl, None), (None, Regions())):
        monkeypatch.setattr(positioned, "fcntl", fcntl)
        monkeypatch.setattr(positioned, "msvcrt", msvcrt)
        with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
            assert try_lock(one)
            assert not try_lock(other)
            assert not try_lock(other, shared=True)


def test_looking_disturbs_nobody_who_looks(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open() as other:
        assert try_lock(one, shared=True)
        assert try_lock(other, shared=True)
        assert not try_lock(one)


def test_without_locks_nobody_is_kept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positioned, "fcntl", None)
    monkeypatch.setattr(positioned, "msvcrt", None)
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert try_lock(one)
        assert try_lock(other)


def refusing(number: int) -> SimpleNamespace:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_SH=1, LOCK_NB=4)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_lived_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(positioned, "fcntl", refusing(number))
    with (tmp_path / "lock").open("w") as file:
        assert try_lock(file)


def test_another_fault_of_locking_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positioned, "fcntl", refusing(errno.EIO))
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="Input/output error"):
        try_lock(file)
