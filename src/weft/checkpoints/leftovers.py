"""What earlier runs left beside an output: looked at, taken up, or removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from weft.checkpoints.beside import (
    FRESH,
    JOURNAL,
    KINDS,
    OLD,
    SNAPSHOT,
    STAGING,
    beside,
    check_beside,
    is_ours,
    targets_of,
)
from weft.checkpoints.locking import busy, is_locked, locked
from weft.checkpoints.logbook import Record, read_records
from weft.checkpoints.staging import Identity, discard, last_commit
from weft.checkpoints.swap import recover
from weft.errors import InputError


@dataclass(frozen=True)
class Begun:
    """What an earlier run left of an output.

    Attributes:
        identity: what it was making; empty if that is not known.
        records: what it noted.
        committed: whether the output that it was making is in its place already.
    """

    identity: Identity
    records: Sequence[Record]
    committed: bool


def find_begun(target: Path) -> Begun | None:
    """What an earlier run left of this output, only looked at. None if there is nothing of use.

    Raises:
        InputError: if another process is writing it now, or if what lies beside it is not to be trusted.
    """
    check_beside(target)
    if is_locked(target):
        raise busy(target)
    records = read_records(beside(target, STAGING) / JOURNAL)
    committed = _is_committed(records, target)
    if not records or (last_commit(records) and not committed and _is_exchanged(records, target)):
        return None
    return Begun(records[0].get("identity", {}), records, committed)


def _is_exchanged(records: Sequence[Record], target: Path) -> bool:
    """Whether the staging folder now holds what was in the output's place before."""
    output = beside(target, STAGING) / "output"
    try:
        told = (output / target.name if target.suffix == ".safetensors" else output).stat()
    except OSError:
        return True
    return last_commit(records).get("id") != [told.st_dev, told.st_ino]


def remove_begun(target: Path) -> None:
    """Remove what an earlier run left of an output, after bringing back what it had put aside.

    Raises:
        InputError: if another process is writing it now.
    """
    check_beside(target)
    with locked(target):
        records = read_records(beside(target, STAGING) / JOURNAL)
        recover(target, is_new=not records or _is_committed(records, target))  # the journal is removed last of all
        discard(beside(target, STAGING))


def remove_abandoned(target: Path) -> None:
    """Remove what killed merges and measurements left of an output.

    Raises:
        InputError: if another process is writing it now.
    """
    remove_begun(target)
    with locked(target):
        for kind in (SNAPSHOT, FRESH):
            beside(target, kind).unlink(missing_ok=True)


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
    def place(self) -> Path:
        """Where it lies: the staging folder of a merge, or the snapshot of a measurement."""
        places = [beside(self.target, kind) for kind in KINDS]
        return next((place for place in places if os.path.lexists(place)), places[0])


def find_abandoned(place: Path) -> Iterator[Abandoned]:
    """What earlier runs left, and nobody is writing.

    Args:
        place: a folder with outputs, or an output.

    Raises:
        InputError: if there is no such place.
    """
    found = [place] if any(os.path.lexists(beside(place, kind)) for kind in KINDS) else []
    if not found and not place.is_dir():
        raise InputError(f"no such folder or unfinished output: {place}", "check the path")
    if place.is_dir():
        found += targets_of(place)
    for target in dict.fromkeys(found):
        staging = beside(target, STAGING)
        if not is_locked(target) and (is_ours(staging) or not os.path.lexists(staging)):
            size = left_size(target) + _size(beside(target, kind) for kind in (SNAPSHOT, FRESH))
            yield Abandoned(target, size, _idle(target))


def left_size(target: Path) -> int:
    """Bytes on disk that an unfinished output takes."""
    places = (beside(target, STAGING), beside(target, OLD))
    files: list[Path] = []
    with suppress(OSError):  # a name that is too long, say
        files += (file for place in places for file in place.rglob("*"))
    return _size(files)


def _size(files: Iterable[Path]) -> int:
    found = (file.stat() for file in files if file.is_file() and not file.is_symlink())
    return sum(getattr(told, "st_blocks", -(-told.st_size // 512)) * 512 for told in found)


def _idle(target: Path) -> float:
    places = [*beside(target, STAGING).glob("*"), *(beside(target, kind) for kind in KINDS)]
    return max(time.time() - max((p.stat().st_mtime for p in places if p.exists()), default=0.0), 0.0)


def _is_committed(records: Sequence[Record], target: Path) -> bool:
    """Whether what lies in the output's place is what an earlier run put there, with all its files."""
    commit = last_commit(records)
    with suppress(OSError):
        now = target.stat()
        files = commit.get("files", {})
        places = {name: target / name if target.is_dir() else target for name in files}
        whole = all(places[name].stat().st_size == size for name, size in files.items())
        return bool(files) and commit.get("id") == [now.st_dev, now.st_ino] and whole
    return False
