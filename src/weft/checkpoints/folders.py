"""Which files are the model: what a folder holds, which of it is meant, and whether an index agrees with its shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.foreign import ADAPTER_CONFIG, folder_in_another_format
from weft.checkpoints.pickled import PICKLED, PICKLED_INDEX
from weft.checkpoints.plain_files import LIST_BYTES, read_json
from weft.checkpoints.safetensors import INDEX
from weft.checkpoints.variants import usual, variant_of
from weft.errors import InputError, Problem, listed, nearest, shown

_BESIDE_THE_MODEL = (
    "training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*", "openvino_model*",
)  # fmt: skip
"""What trainers save next to a checkpoint under the suffix of one."""


_MOST_SHARDS = 10_000
"""Files that an index may name; the largest models are split into a few hundred."""
_LONGEST_SHARD = 255
"""Bytes of a file's name, as file systems have it."""
_TOLD = 100
"""Tensors of an index that are told one by one."""
_AGAIN = "download the model again"


@dataclass(frozen=True)
class Weights:
    """The files of one checkpoint.

    Attributes:
        path: the file or folder that the user named.
        files: all that hold tensors.
        stem: what to call files in their likeness: `model` for `pytorch_model-00001-of-00002.bin`.
        index: the index, if there is one.
        weight_map: what the index says: for each tensor its file's name.
    """

    path: Path
    files: tuple[Path, ...]
    stem: str = "model"
    index: Path | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def are_pickled(self) -> bool:
        """Whether these are torch pickles; else they are safetensors."""
        return self.files[0].suffix in PICKLED


@dataclass(frozen=True)
class _Format:
    """How the files of a format are called: the suffixes, and the end of an index's name."""

    suffixes: tuple[str, ...]
    index: str

    def has_index(self, name: str) -> bool:
        """Whether an index of this format is called so; one of a variant is `model.safetensors.index.fp16.json`."""
        return self.index.removesuffix("json") in name and name.endswith(".json")


_FORMATS = (_Format((".safetensors",), INDEX), _Format(PICKLED, PICKLED_INDEX))
"""The first is preferred: it is read without torch and cannot run code."""


def find_weights(path: Path) -> Weights:
    """The files of the checkpoint that a path names.

    Args:
        path: a file of weights, an index, or a folder that holds either.

    Raises:
        InputError: naming what is missing and what was found instead.
    """
    try:
        return _found(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "check the path and the permissions") from None


def _found(path: Path) -> Weights:
    if path.is_dir():
        return _in_folder(path)
    _refuse_dead_link(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is neither a file nor a folder, but a pipe or a device", "name a file of weights")
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", _near(path))
    if is_index(path.name):
        return _from_index(path.parent, path)
    if _is_of_adapter(path):
        raise _nothing_in(path.parent)
    if path.suffix not in (".safetensors", *PICKLED):
        known = ", ".join((".safetensors", *PICKLED))
        raise InputError(
            f"{path}: not a .safetensors file, nor a torch pickle ({known} are read)",
            "convert it, or name the folder that holds the model",
        )
    return Weights(path, (path,))


def _refuse_dead_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        what = f"{path}: is a link to {os.readlink(path)}, which does not exist"
        raise InputError(what, "mend the link, or download or copy the file again")


def _near(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"{parent} does not exist either"
    return nearest(path.name, [p.name for p in parent.iterdir()]) or f"{parent} holds: {_holds(parent)}"


def _holds(folder: Path) -> str:
    return listed(sorted(p.name for p in folder.iterdir())) or "nothing"


def is_index(name: str) -> bool:
    """Whether a file of this name says which shard holds which tensor."""
    return any(kind.has_index(name) for kind in _FORMATS)


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, or several, in a format that is read."""
    return any(_candidates(folder, kind) for kind in _FORMATS)


def _in_folder(folder: Path) -> Weights:
    found = [candidates for kind in _FORMATS if (candidates := _candidates(folder, kind))]
    if not found:
        raise _nothing_in(folder)
    candidates = min(found, key=lambda some: bool(variant_of(some[0].name)))  # any format before a variant
    if len(candidates) > 1:
        names = ", ".join(c.name for c in candidates)
        raise InputError(
            f"{folder}: holds several checkpoints: {names}", "name one of these files instead of the folder"
        )
    if is_index(candidates[0].name):
        return _from_index(folder, candidates[0])
    _refuse_dead_link(candidates[0])
    return Weights(folder, (candidates[0],), _stem(candidates[0].stem))


def _candidates(folder: Path, kind: _Format) -> list[Path]:
    """What could be meant, one if that is clear: usual names go before others, an index before files."""
    places = sorted(folder.iterdir())
    indices = [p for p in places if kind.has_index(p.name)]
    files = [p for p in places if p.suffix in kind.suffixes and _is_model(p)]
    best = usual((*indices, *files))
    return [best] if best else indices or files


def _is_model(file: Path) -> bool:
    beside = any(fnmatch(file.name, pattern) for pattern in _BESIDE_THE_MODEL)
    return not (beside or _is_of_adapter(file) or file.is_dir())


def _is_of_adapter(file: Path) -> bool:
    return file.stem == "adapter_model" and (file.parent / ADAPTER_CONFIG).is_file()


def _stem(stem: str) -> str:
    """What the output is called: never by a variant, which loaders take only when they are told to."""
    plain = stem.partition(".")[0] if variant_of(stem) else stem
    return "model" if plain == "pytorch_model" else plain


def _nothing_in(folder: Path) -> InputError:
    foreign = folder_in_another_format(folder)
    if foreign is not None:
        return foreign
    parts = sorted(p.name for p in folder.iterdir() if p.is_dir() and holds_weights(p))
    remedy = "name a folder that holds model.safetensors, or shards with an index"
    if parts:
        remedy = f"merge its parts one by one: name one of the folders in it that hold weights: {listed(parts)}"
    return InputError(f"{folder}: no weights in it, neither safetensors nor torch; it holds: {_holds(folder)}", remedy)


def _from_index(folder: Path, index: Path) -> Weights:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    kind = next(kind for kind in _FORMATS if kind.has_index(index.name))
    if len(shards) > _MOST_SHARDS:
        what = f"{index}: names {len(shards):,} files, more than {_MOST_SHARDS:,}"
        raise InputError(what, "an index names the few files that the model was split into")
    for shard in shards:
        _check_shard(index, shard, kind.suffixes)
        _check_link(index, folder / shard)
    missing = [s for s in shards if not (folder / s).is_file()]
    if missing:
        raise InputError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing: {listed(missing)}", "download them"
        )
    stem = index.name.partition(kind.index.removesuffix("json"))[0]
    # An index that is named itself keeps standing for its folder, which lends config and tokenizer.
    return Weights(folder, tuple(folder / shard for shard in shards), _stem(stem), index, weight_map)


def _check_shard(index: Path, shard: str, suffixes: tuple[str, ...]) -> None:
    plain = Path(shard).name == shard and not {"/", "\\", ":"} & set(shard) and shard not in ("", ".", "..")
    if not plain or not shard.isprintable() or len(os.fsencode(shard)) > _LONGEST_SHARD:
        what = f"{index}: shard {shown(shard)} is not a plain file name"
        raise InputError(what, "an index may only name files beside it")
    if not shard.endswith(suffixes):
        raise InputError(f"{index}: shard {shard!r} is not a {suffixes[0]} file", "download the model again")


def _check_link(index: Path, file: Path) -> None:
    """An index may not reach other files through a link, but into the Hub cache's own store it may."""
    _refuse_dead_link(file)
    if not file.is_symlink():
        return
    target, folder = file.resolve(), index.parent.resolve()
    in_cache = target.parent.name == "blobs" and target.parent.parent in folder.parents
    if folder not in target.parents and not in_cache:
        what = f"{index}: shard {file.name!r} is a link that leads out of the folder, to {target}"
        raise InputError(what, "put the file itself there, or link to the folder as a whole")


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        parsed: Any = read_json(index, LIST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{index}: cannot be read as JSON: {error}", "download it again") from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()) or not weight_map:
        raise InputError(f"{index}: has no weight_map of tensor names to file names", "download it again")
    return weight_map


def check_index(weights: Weights, checkpoint: Checkpoint) -> None:
    """Compare what the index says with what the shards hold.

    Raises:
        InputError: naming every tensor that is not where the index says.
    """
    if weights.index is None:
        return
    base_of = cache(os.path.basename)  # of a few files, asked for tens of thousands of tensors
    places = {name: base_of(checkpoint.file_of(name)) for name in checkpoint.tensors}
    if places == weights.weight_map:
        return
    misplaced = [(name, shard) for name, shard in weights.weight_map.items() if places.get(name) != shard]
    problems = [
        Problem(f"{weights.index}: says that {shown(name)} is in {shard}, which does not hold it", _AGAIN)
        for name, shard in misplaced[:_TOLD]
    ]
    if len(misplaced) > _TOLD:
        problems.append(Problem(f"{weights.index}: {len(misplaced) - _TOLD:,} more are not where it says", _AGAIN))
    unlisted = [name for name in checkpoint.tensors if name not in weights.weight_map]
    if unlisted:
        what = f"{weights.index}: {len(unlisted)} tensors are in the shards but not in the index: {listed(unlisted)}"
        problems.append(Problem(what, "download the model again, or remove stale shards"))
    if problems:
        raise InputError(problems)
