"""Where output may go: never onto an input, and onto an existing folder only if all in it is ours to replace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.plain_files import read_json
from weft.engine.inputs import Inputs
from weft.engine.record import LOCK
from weft.errors import InputError, MergeError, listed

_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".yaml", ".yml", ".json")


def check_target(target: Path, inputs: Inputs, overwrite: bool) -> None:
    """See that an output may be written.

    Args:
        target: the folder or file that is to appear.
        inputs: the checkpoints.
        overwrite: whether an existing output may be replaced.

    Raises:
        InputError: if it is or contains an input, exists without `overwrite`, holds what a merge did not write, or
            cannot exist.
    """
    if target.suffix in _OTHER_FORMATS:
        raise InputError(
            f"the output {target} would not be a {target.suffix} file", "name a folder, or a .safetensors file"
        )
    for parent in target.absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"the output {target} cannot exist: {parent} is a file", "choose another output")
    _check_inputs(target, inputs)
    here = target.absolute()
    if os.path.ismount(target) or here == Path.cwd() or here in Path.cwd().parents:
        raise InputError(
            f"{target} cannot be replaced: it is where a disk begins, or where you are", "name a folder in it"
        )
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} exists", "choose another output, or replace it with --overwrite (overwrite=True)")
    if target.is_dir() != (target.suffix != ".safetensors"):
        kind = "folder" if target.is_dir() else "file"
        raise InputError(f"{target} exists and is a {kind}", "choose another output")
    if target.is_dir() and (strangers := sorted(_strangers(target))):
        raise InputError(
            f"{target} holds what no merge wrote and --overwrite would delete: {listed(strangers)}",
            "move that away, or choose another output",
        )


def check_replaceable(target: Path) -> None:
    """See that nothing was put into an old output while the merge ran, which would go with it.

    Raises:
        MergeError: naming it.
    """
    if target.is_dir() and (strangers := sorted(_strangers(target))):
        raise MergeError(
            f"{target} now holds what no merge wrote, and is not replaced: {listed(strangers)}; move it away"
        )


def _check_inputs(target: Path, inputs: Inputs) -> None:
    place = target.resolve()
    beside = ((checkpoint.label, checkpoint) for checkpoint in inputs.auxiliaries())
    for label, checkpoint in (*inputs.all(), *beside):
        if _collides(place, checkpoint):
            what = f"the output {target} is, contains or lies in the input {label} ({checkpoint.path})"
            raise InputError(what, "choose another output")


def _collides(place: Path, checkpoint: Checkpoint) -> bool:
    """Whether writing there would touch an input: by name, or by a link to one of its files."""
    if checkpoint.path is None:
        return False
    path = checkpoint.path.resolve()
    if place == path or place in path.parents or (place.is_file() and path in place.parents):
        return True
    return not _identities(place).isdisjoint(_identities(path))


def _identities(place: Path) -> set[tuple[int, int]]:
    """The files at or in a place, links followed, by what the file system knows them by."""
    files = place.rglob("*") if place.is_dir() else (place,)
    return {(stat.st_dev, stat.st_ino) for file in files if file.is_file() and (stat := file.stat())}


def _strangers(folder: Path) -> Iterator[str]:
    """What lies in an existing output that an earlier merge did not put there."""
    known = _recorded(folder)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            yield name


def _recorded(folder: Path) -> set[str]:
    """The files that a merge listed in its lock file."""
    try:
        return {LOCK, *read_json(folder / LOCK)["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
