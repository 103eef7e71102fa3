"""Safetensors on disk: a lone file, or a model folder with one file or shards and an index."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.header import read_header
from weft.errors import InputError, MergeError, Problem, listed, nearest

INDEX = ".safetensors.index.json"


class SafetensorsCheckpoint(Checkpoint):
    """Tensors in one or several safetensors files, read with `pread`: nothing is mapped, nothing is held.

    Args:
        path: the file or folder that the user named.
        files: the safetensors files, all of them.

    Raises:
        InputError: for a file that is missing or damaged, or a tensor that two files hold.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.label = str(path)
        self.tied = MappingProxyType({})
        self.stem = "model"
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, Path, int]] = {}
        tensors: dict[str, TensorSpec] = {}
        metadata: dict[str, str] = {}
        for file in files:
            self._add(file, tensors, metadata)
        self.tensors = MappingProxyType(tensors)
        self.metadata = MappingProxyType(metadata)

    def _add(self, file: Path, tensors: dict[str, TensorSpec], metadata: dict[str, str]) -> None:
        try:
            stream = file.open("rb")
        except OSError as error:
            self.close()
            raise InputError(f"{file}: {error.strerror}", "check the path and the permissions") from None
        with stream:
            header = read_header(stream, file, os.fstat(stream.fileno()).st_size)
            descriptor = os.dup(stream.fileno())
        self._descriptors.append(descriptor)
        for name in header.tensors.keys() & tensors.keys():
            raise InputError(f"{file}: tensor {name!r} is also in {self._places[name][1]}", "keep one of the two")
        tensors.update(header.tensors)
        metadata.update(header.metadata)
        self._places.update((name, (descriptor, file, offset)) for name, offset in header.offsets.items())

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; fills the buffer."""
        descriptor, file, offset = self._places[name]
        dtype = self.tensors[name].dtype
        wanted = buffer[: (stop - start) * dtype.itemsize]
        _read_fully(descriptor, wanted, offset + start * dtype.itemsize, file, name)
        return wanted.view(dtype.storage)

    def file_of(self, name: str) -> str:
        """The path of the shard."""
        return str(self._places[name][1])

    @property
    def is_resident(self) -> bool:
        """False: every read goes to the file."""
        return False

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _read_fully(descriptor: int, into: Array, offset: int, file: Path, name: str) -> None:
    view = memoryview(into.data)
    while view:
        try:
            count = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise MergeError(f"{file}: cannot read tensor {name!r} at byte {offset}: {error.strerror}") from error
        if count == 0:
            raise MergeError(f"{file}: ends before tensor {name!r} does; it was cut short while we read it")
        view = view[count:]
        offset += count


def open_safetensors(path: Path) -> SafetensorsCheckpoint:
    """Open a `.safetensors` file or a model folder.

    Raises:
        InputError: naming what is missing and what was found instead.
    """
    if path.is_file():
        if path.name.endswith(INDEX):
            return _from_index(path.parent, path)
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: not a .safetensors file", "convert it, or name the folder that holds the model")
        return SafetensorsCheckpoint(path, [path])
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder", _near(path))
    return _from_folder(path)


def _near(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"{parent} does not exist either"
    return nearest(path.name, [p.name for p in parent.iterdir()]) or f"{parent} holds: {_holds(parent)}"


def _holds(folder: Path) -> str:
    return listed(sorted(p.name for p in folder.iterdir())) or "nothing"


def _from_folder(folder: Path) -> SafetensorsCheckpoint:
    indices = sorted(folder.glob(f"*{INDEX}"))
    files = sorted(folder.glob("*.safetensors"))
    preferred = [f for f in (folder / f"model{INDEX}", folder / "model.safetensors") if f in (*indices, *files)]
    candidates = preferred[:1] or indices or files
    if len(candidates) > 1:
        names = ", ".join(c.name for c in candidates)
        raise InputError(
            f"{folder}: holds several checkpoints: {names}", "name one of these files instead of the folder"
        )
    if not candidates:
        raise InputError(f"{folder}: no safetensors file in it; it holds: {_holds(folder)}", _convert(folder))
    if candidates[0].name.endswith(INDEX):
        return _from_index(folder, candidates[0])
    checkpoint = SafetensorsCheckpoint(folder, candidates)
    checkpoint.stem = candidates[0].stem
    return checkpoint


def _convert(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "load it with transformers and save it again: save_pretrained writes safetensors"
    return "name a folder that holds model.safetensors, or shards with an index"


def _from_index(folder: Path, index: Path) -> SafetensorsCheckpoint:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise InputError(
                f"{index}: shard {shard!r} is not a plain file name", "an index may only name files beside it"
            )
    missing = [s for s in shards if not (folder / s).is_file()]
    if missing:
        raise InputError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing: {listed(missing)}", "download them"
        )
    checkpoint = SafetensorsCheckpoint(folder, [folder / shard for shard in shards])
    checkpoint.stem = index.name.removesuffix(INDEX)
    problems = [
        Problem(f"{index}: says that {name!r} is in {shard}, which does not hold it", "download the model again")
        for name, shard in weight_map.items()
        if name not in checkpoint.tensors or Path(checkpoint.file_of(name)).name != shard
    ]
    unlisted = [name for name in checkpoint.tensors if name not in weight_map]
    if unlisted:
        what = f"{index}: {len(unlisted)} tensors are in the shards but not in the index: {listed(unlisted)}"
        problems.append(Problem(what, "download the model again, or remove stale shards"))
    if problems:
        checkpoint.close()
        raise InputError(problems)
    return checkpoint


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        parsed: Any = json.loads(index.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{index}: cannot be read as JSON: {error}", "download it again") from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()) or not weight_map:
        raise InputError(f"{index}: has no weight_map of tensor names to file names", "download it again")
    return weight_map
