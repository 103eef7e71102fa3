"""What lies at a path, opened as far as it goes: one damaged file must not keep us from looking at the others.

Merging opens a checkpoint wholly or not at all. An inspection opens every file by itself, with the same reader, and
turns what the reader refuses into findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.checkpoints import plain_files
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.folders import is_index
from weft.checkpoints.foreign import refuse_file
from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.pipeline import LISTING, SEPARATOR, parts_of
from weft.checkpoints.safetensors import INDEX, SafetensorsCheckpoint
from weft.checkpoints.variants import usual
from weft.engine.record import LOCK, RECIPE
from weft.errors import InputError, listed, nearest
from weft.inspection.findings import Finding, Level, from_problems

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.safetensors")
_LISTS_OF_PARTS = (LISTING, "modules.json")
_AGAIN = "download or write the model again"


@dataclass(frozen=True)
class Index:
    """The file that says which shard holds which tensor.

    Attributes:
        path: where it is.
        weight_map: tensor names to file names.
        total_size: what it says the tensors' bytes are, as written; None if it does not say.
    """

    path: Path
    weight_map: Mapping[str, str]
    total_size: object


@dataclass(frozen=True)
class Subject:
    """One checkpoint under inspection.

    Attributes:
        path: what was named.
        folder: the model folder; None for a lone file.
        index: the index of a sharded checkpoint, if it could be read.
        members: names of the files that make up the checkpoint, whether or not they exist.
        parts: those that could be opened, each by itself, by file name.
        problems: what came up while opening.
        config: `config.json`, empty if there is none.
        by_weft: whether Weft wrote the folder, and so nothing in it is anyone else's habit.
        below: of a pipeline, its parts by their folders; each is a subject of its own.
        whole: the pipeline's folder, for a part of one.
    """

    path: Path
    folder: Path | None
    index: Index | None = None
    members: tuple[str, ...] = ()
    parts: Mapping[str, Checkpoint] = field(default_factory=dict)
    problems: tuple[Finding, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    by_weft: bool = False
    below: Mapping[str, Subject] = field(default_factory=dict)
    whole: Path | None = None

    @cached_property
    def everything(self) -> Mapping[str, tuple[Subject, TensorSpec]]:
        """Every tensor under the name that it has in a merge, with whom it belongs to: a pipeline's parts or itself."""
        own = {name: (self, spec) for name, spec in self.tensors.items()}
        parts = [(f"{folder}{SEPARATOR}", part) for folder, part in self.below.items()]
        return own | {prefix + name: (part, spec) for prefix, part in parts for name, spec in part.tensors.items()}

    @property
    def home(self) -> Path | None:
        """Where recipe and lock lie: the folder, or that of the whole pipeline."""
        return self.whole or self.folder

    @cached_property
    def holders(self) -> Mapping[str, Checkpoint]:
        """For each tensor the file that holds it; of several, the first."""
        return {name: part for part in reversed([*self.parts.values()]) for name in part.tensors}

    @cached_property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Everything that could be opened."""
        return {name: part.tensors[name] for part in self.parts.values() for name in part.tensors}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in all files."""
        return sum(spec.nbytes for part in self.parts.values() for spec in part.tensors.values())

    @property
    def is_safetensors(self) -> bool:
        """Whether the weights are in the format whose files can be opened one by one."""
        return bool(self.members)

    @property
    def untidy(self) -> Level:
        """How bad it is when something is against the rules that everyone else is lax about."""
        return "error" if self.by_weft else "warning"

    def file_of(self, name: str) -> str:
        """Which file holds a tensor, for messages."""
        return self.holders[name].file_of(name)

    def close(self) -> None:
        """Release all files."""
        for part in self.parts.values():
            part.close()


def survey(path: Path) -> list[Subject]:
    """Open what lies at a path: a file, a model folder, or a folder of model folders.

    Args:
        path: a `.safetensors` file, an index, a model folder, or a pipeline's folder with a model in each subfolder.

    Returns:
        The checkpoint at the path itself first, then those below it.

    Raises:
        InputError: if nothing is there.
    """
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file or folder", nearest(path.name, names) or "check the path")
    if path.is_file():
        return [_from_index(path.parent, path) if is_index(path.name) else _lone(path)]
    parts, problems = _parts(path)
    if parts:
        return _pipeline(path, parts)
    below = list(_below(path))
    root = _from_folder(path, by_weft=_is_ours(path), may_be_empty=bool(below))
    root = replace(root, problems=(*root.problems, *problems))
    return [root, *(_from_folder(folder, by_weft=root.by_weft, may_be_empty=False) for folder in below)]


def _parts(folder: Path) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The parts of a pipeline, or what is wrong with its listing."""
    try:
        return parts_of(folder), ()
    except InputError as error:
        return (), tuple(from_problems(error, "pipeline"))


def _pipeline(folder: Path, names: tuple[str, ...]) -> list[Subject]:
    """The pipeline, which has no weights of its own, and its parts."""
    ours = _is_ours(folder)
    found = {name: _from_folder(folder / name, by_weft=ours, may_be_empty=False) for name in names}
    parts = {name: replace(part, whole=folder) for name, part in found.items()}
    return [Subject(folder, folder, by_weft=ours, below=parts), *parts.values()]


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: if it cannot be read or is not JSON.
    """
    try:
        return plain_files.read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}", _AGAIN) from None


def shard_number(name: str) -> tuple[str, int, int] | None:
    """Stem, number and count of a shard's file name.

    Example:
        >>> shard_number("model-00002-of-00003.safetensors")
        ('model', 2, 3)
    """
    found = _SHARD.fullmatch(name)
    return (found["stem"], int(found["number"]), int(found["count"])) if found else None


def _is_ours(folder: Path) -> bool:
    return (folder / RECIPE).exists() or (folder / LOCK).exists()


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob(f"*{INDEX}"))


def _below(folder: Path) -> Iterator[Path]:
    """Subfolders that are models of their own, where the folder is a list of parts or holds no weights itself."""
    if _has_weights(folder) and not any((folder / name).is_file() for name in _LISTS_OF_PARTS):
        return
    for sub in sorted(folder.iterdir()):
        if sub.is_dir() and not sub.name.startswith(".") and _has_weights(sub):
            yield sub


def _lone(path: Path) -> Subject:
    parts, problems = _opened([path])
    members = (path.name,) if path.suffix == ".safetensors" else ()
    return Subject(path, None, members=members, parts=parts, problems=tuple(problems))


def _from_folder(folder: Path, by_weft: bool, may_be_empty: bool) -> Subject:
    indices, files = sorted(folder.glob(f"*{INDEX[:-5]}*.json")), sorted(folder.glob("*.safetensors"))
    best = usual((*indices, *files))
    chosen = [best] if best else indices or files
    if len(chosen) == 1 and is_index(chosen[0].name):
        return _from_index(folder, chosen[0], by_weft)
    problems = list(_ambiguity(folder, chosen))
    parts, more = _opened(files if len(chosen) > 1 else chosen)
    if not chosen and not may_be_empty:
        parts, more = _opened([folder])
    config, unread = _config(folder)
    members = tuple(file.name for file in (files if len(chosen) > 1 else chosen))
    return Subject(folder, folder, None, members, parts, (*problems, *more, *unread), config, by_weft)


def _ambiguity(folder: Path, chosen: list[Path]) -> Iterator[Finding]:
    """Files without an index to say that they belong together."""
    numbered = [file.name for file in chosen if shard_number(file.name)]
    if numbered and len(numbered) == len(chosen):
        what = f"{folder}: shards without an index: {listed(numbered)}"
        yield Finding("error", "index", what, "write the missing model.safetensors.index.json, or the model again")
    elif len(chosen) > 1:
        what = f"{folder}: holds several checkpoints: {listed(file.name for file in chosen)}"
        yield Finding("error", "files", what, "keep one, or name one of these files instead of the folder")


def _from_index(folder: Path, path: Path, by_weft: bool | None = None) -> Subject:
    by_weft = _is_ours(folder) if by_weft is None else by_weft
    problems: list[Finding] = []
    try:
        index = _read_index(path)
        members = sorted(set(index.weight_map.values()))
    except InputError as error:
        index = None
        problems += from_problems(error, "index")
        members = _shards_of(folder, path.name.partition(INDEX[:-5])[0])
    inside = [name for name in members if Path(name).name == name and name not in ("", ".", "..")]
    problems += _strangers(path, sorted({*members} - {*inside}))
    present = [name for name in inside if (folder / name).is_file()]
    problems += _absent(path, [name for name in inside if name not in present], len(members))
    parts, more = _opened([folder / name for name in present])
    config, unread = _config(folder)
    return Subject(folder, folder, index, tuple(members), parts, (*problems, *more, *unread), config, by_weft)


def _shards_of(folder: Path, stem: str) -> list[str]:
    numbered = {file.name: shard_number(file.name) for file in sorted(folder.glob("*.safetensors"))}
    return [name for name, parsed in numbered.items() if parsed and parsed[0] == stem]


def _read_index(path: Path) -> Index:
    parsed = read_json(path)
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()) or not weight_map:
        raise InputError(f"{path}: has no weight_map of tensor names to file names", _AGAIN)
    metadata = parsed.get("metadata")
    return Index(path, weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None)


def _strangers(index: Path, names: list[str]) -> Iterator[Finding]:
    for name in names:
        what = f"{index}: shard {name!r} is not a plain file name"
        yield Finding("error", "index", what, "an index may only name files beside it; do not use this model")


def _absent(index: Path, names: list[str], count: int) -> Iterator[Finding]:
    if names:
        what = f"{index}: {len(names)} of {count} shards are missing: {listed(names)}"
        yield Finding("error", "files", what, _AGAIN)


def _opened(files: list[Path]) -> tuple[Mapping[str, Checkpoint], list[Finding]]:
    parts: dict[str, Checkpoint] = {}
    problems: list[Finding] = []
    for file in files:
        try:
            parts[file.name] = _opened_one(file)
        except InputError as error:
            problems += from_problems(error, "header" if file.suffix == ".safetensors" else "files")
    return parts, problems


def _opened_one(file: Path) -> Checkpoint:
    """Safetensors with the reader alone: whether they can be merged, which the whole asks too, is another question."""
    if file.suffix != ".safetensors":
        return open_checkpoint(file)
    refuse_file(file)
    return SafetensorsCheckpoint(file, [file])


def _config(folder: Path) -> tuple[Mapping[str, Any], list[Finding]]:
    path = folder / "config.json"
    if not path.is_file():
        return {}, []
    try:
        parsed = read_json(path)
        if not isinstance(parsed, dict):
            raise InputError(f"{path}: is not a JSON object", "copy it from the base model")
    except InputError as error:
        return {}, list(from_problems(error, "config"))
    return parsed, []
