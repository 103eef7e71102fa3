"""Are the files what the lock file says they were when the merge wrote them?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from weft.checkpoints.header import LENGTH, LONGEST
from weft.engine.progress import Progress
from weft.engine.record import LOCK, content_hash
from weft.errors import InputError
from weft.inspection.findings import Finding, Report, from_problems
from weft.inspection.subject import Subject, read_json

_REWRITE = "the file was changed or damaged: write or download it again"


@dataclass(frozen=True)
class Lock:
    """What a lock file records of the files beside it.

    Attributes:
        folder: where they are.
        files: names of all of them.
        outputs: files with weights: `size` in bytes and, if they were recorded, `blake3` of the content and
            `header_sha256` of everything before the first tensor.
    """

    folder: Path
    files: tuple[str, ...]
    outputs: Mapping[str, Mapping[str, Any]]

    def present(self, key: str) -> Iterator[tuple[Path, Any]]:
        """Each file that is there, with what is recorded of it under a key."""
        for name, entry in self.outputs.items():
            if entry.get(key) is not None and (self.folder / name).is_file():
                yield self.folder / name, entry[key]


def read_lock(subject: Subject) -> Lock | None:
    """The lock of the folder, or as much of it as is about a lone file; None if there is none.

    Raises:
        InputError: if it is not a lock, or lists what lies elsewhere.
    """
    folder = subject.folder or subject.path.parent
    path = folder / LOCK
    if not path.is_file():
        return None
    parsed = read_json(path)
    outputs = parsed.get("outputs") if isinstance(parsed, dict) else None
    files = parsed.get("files", []) if isinstance(parsed, dict) else None
    known = isinstance(outputs, dict) and all(isinstance(entry, dict) for entry in outputs.values())
    if not isinstance(outputs, dict) or not known or not _is_list_of_names(files):
        raise InputError(f"{path}: has no `outputs` of file names and what is known of them", "write the model again")
    for name in (*outputs, *files):
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{path}: {name!r} does not lie in the folder", "do not use this model")
    if subject.folder is None:
        return Lock(folder, (), {name: entry for name, entry in outputs.items() if name == subject.path.name})
    return Lock(folder, tuple(files), outputs)


def _is_list_of_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def lock_agrees(subject: Subject) -> Iterator[Finding]:
    """Every file that the lock lists is there, with the size and the header that it records."""
    try:
        lock = read_lock(subject)
    except InputError as error:
        yield from from_problems(error, "lock")
        return
    if lock is None:
        return
    for name in dict.fromkeys((*lock.outputs, *lock.files)):
        if not (lock.folder / name).is_file():
            what = f"{lock.folder / name}: {LOCK} lists it, but it is missing"
            yield Finding("warning" if name.endswith(".md") else "error", "lock", what, "write the model again")
    for path, told in lock.present("size"):
        if told != path.stat().st_size:
            yield Finding("error", "lock", f"{path}: has {path.stat().st_size} bytes, {LOCK} says {told}", _REWRITE)
    for path, told in lock.present("header_sha256"):
        if _header_hash(path) != told:
            yield Finding("error", "lock", f"{path}: its header is not the one that {LOCK} records", _REWRITE)


def _header_hash(path: Path) -> str:
    with path.open("rb") as file:
        prefix = file.read(LENGTH)
        length = min(int.from_bytes(prefix, "little"), LONGEST)
        return hashlib.sha256(prefix + file.read(length)).hexdigest()


def hashes_agree(subject: Subject, progress: Progress) -> Report:
    """Every file with weights has the content that the lock records.

    Raises:
        InputError: if blake3 is not installed.
    """
    try:
        lock = read_lock(subject)
    except InputError:
        return Report()  # told by `lock_agrees`
    hashed = dict(lock.present("blake3")) if lock else {}
    if not hashed:
        reason = f"{LOCK} holds no hashes" if lock else f"there is no {LOCK}"
        what = f"{subject.path}: {reason}, so no content was compared"
        return Report((Finding("warning", "hash", what, "merge with --hash to have them recorded"),))
    total = sum(path.stat().st_size for path in hashed)
    progress.phase("hashing", total)
    names = {path.name for path in hashed}
    unlisted = [f"{LOCK} has no hash of {name}" for name in subject.parts if name not in names]
    return Report(tuple(_compared(hashed, progress)), tuple(unlisted), bytes_read=total)


def _compared(hashed: Mapping[Path, str], progress: Progress) -> Iterator[Finding]:
    for path, told in hashed.items():
        found = content_hash(path)
        progress.advance(path.stat().st_size)
        if found != str(told).lower():
            what = f"{path}: its content has blake3 {found[:16]}..., {LOCK} says {str(told)[:16]}..."
            yield Finding("error", "hash", what, _REWRITE)
