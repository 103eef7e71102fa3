"""Which files are the model: what a folder holds, which of it is meant, and whether an index agrees with its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.foreign import ADAPTER_CONFIG, folder_in_another_format
from weft.checkpoints.pickled import PICKLED, PICKLED_INDEX
from weft.checkpoints.safetensors import INDEX
from weft.errors import InputError, Problem, listed, nearest

_BESIDE_THE_MODEL = (
    "training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*", "openvino_model*",
)  # fmt: skip
"""What trainers save next to a checkpoint under the suffix of one."""


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
    """How the files of a format are called: the best known name, the suffixes, and the end of an index's name."""

    stem: str
    suffixes: tuple[str, ...]
    index: str


_FORMATS = (
    _Format("model", (".safetensors",), INDEX),
    _Format("pytorch_model", PICKLED, PICKLED_INDEX),
)
"""The first is preferred: it is read without torch and cannot run code."""


def find_weights(path: Path) -> Weights:
    """The files of the checkpoint that a path names.

    Args:
        path: a file of weights, an index, or a folder that holds either.

    Raises:
        InputError: naming what is missing and what was found instead.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", _near(path))
    if path.name.endswith((INDEX, PICKLED_INDEX)):
        return _from_index(path.parent, path)
    if path.suffix not in (".safetensors", *PICKLED):
        known = ", ".join((".safetensors", *PICKLED))
        raise InputError(
            f"{path}: not a .safetensors file, nor a torch pickle ({known} are read)",
            "convert it, or name the folder that holds the model",
        )
    return Weights(path, (path,))


def _near(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"{parent} does not exist either"
    return nearest(path.name, [p.name for p in parent.iterdir()]) or f"{parent} holds: {_holds(parent)}"


def _holds(folder: Path) -> str:
    return listed(sorted(p.name for p in folder.iterdir())) or "nothing"


def _in_folder(folder: Path) -> Weights:
    for kind in _FORMATS:
        candidates = _candidates(folder, kind)
        if len(candidates) > 1:
            names = ", ".join(c.name for c in candidates)
            raise InputError(
                f"{folder}: holds several checkpoints: {names}", "name one of these files instead of the folder"
            )
        if candidates and candidates[0].name.endswith(kind.index):
            return _from_index(folder, candidates[0])
        if candidates:
            return Weights(folder, (candidates[0],), _stem(candidates[0].stem))
    raise _nothing_in(folder)


def _candidates(folder: Path, kind: _Format) -> list[Path]:
    """What could be meant, one if that is clear: the best known names go before others, an index before files."""
    indices = sorted(folder.glob(f"*{kind.index}"))
    files = [p for p in sorted(folder.iterdir()) if p.suffix in kind.suffixes and _is_model(p)]
    best = (folder / f"{kind.stem}{kind.index}", folder / f"{kind.stem}{kind.suffixes[0]}")
    return [p for p in best if p in (*indices, *files)][:1] or indices or files


def _is_model(file: Path) -> bool:
    beside = any(fnmatch(file.name, pattern) for pattern in _BESIDE_THE_MODEL)
    adapter = file.stem == "adapter_model" and (file.parent / ADAPTER_CONFIG).is_file()
    return not (beside or adapter or file.is_dir())


def _stem(stem: str) -> str:
    return "model" if stem == "pytorch_model" else stem


def _nothing_in(folder: Path) -> InputError:
    foreign = folder_in_another_format(folder)
    if foreign is not None:
        return foreign
    parts = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(_candidates(p, kind) for kind in _FORMATS))
    remedy = "name a folder that holds model.safetensors, or shards with an index"
    if parts:
        remedy = f"merge its parts one by one: name one of the folders in it that hold weights: {listed(parts)}"
    return InputError(f"{folder}: no weights in it, neither safetensors nor torch; it holds: {_holds(folder)}", remedy)


def _from_index(folder: Path, index: Path) -> Weights:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    suffixes = next(kind.suffixes for kind in _FORMATS if index.name.endswith(kind.index))
    for shard in shards:
        _check_shard(index, shard, suffixes)
    missing = [s for s in shards if not (folder / s).is_file()]
    if missing:
        raise InputError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing: {listed(missing)}", "download them"
        )
    stem = index.name.removesuffix(INDEX).removesuffix(PICKLED_INDEX)
    # An index that is named itself keeps standing for its folder, which lends config and tokenizer.
    return Weights(folder, tuple(folder / shard for shard in shards), _stem(stem), index, weight_map)


def _check_shard(index: Path, shard: str, suffixes: tuple[str, ...]) -> None:
    if Path(shard).name != shard or shard in ("", ".", ".."):
        raise InputError(f"{index}: shard {shard!r} is not a plain file name", "an index may only name files beside it")
    if not shard.endswith(suffixes):
        raise InputError(f"{index}: shard {shard!r} is not a {suffixes[0]} file", "download the model again")


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        parsed: Any = json.loads(index.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
    problems = [
        Problem(
            f"{weights.index}: says that {name!r} is in {shard}, which does not hold it", "download the model again"
        )
        for name, shard in weights.weight_map.items()
        if name not in checkpoint.tensors or Path(checkpoint.file_of(name)).name != shard
    ]
    unlisted = [name for name in checkpoint.tensors if name not in weights.weight_map]
    if unlisted:
        what = f"{weights.index}: {len(unlisted)} tensors are in the shards but not in the index: {listed(unlisted)}"
        problems.append(Problem(what, "download the model again, or remove stale shards"))
    if problems:
        raise InputError(problems)
