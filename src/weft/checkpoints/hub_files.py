"""Which of a Hub repository's files a merge needs: one copy of the weights, and their companions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from weft.checkpoints.plain_files import LIST_BYTES, read_json

Shards = Callable[[str], Collection[str]]
"""From the name of an index to the names of the files that it lists, both as seen from the repository's root."""

_FORMATS = (".safetensors", ".bin")
"""Weights in order of preference; one is fetched."""
_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
"""How the libraries that save models call their weights. Other names beside these are copies in another layout."""
_VARIANTS = ("", "fp32", "bf16", "fp16")
"""Which variant is taken: the plain one, or what comes closest to it; any other comes last."""
_ASIDE = re.compile(
    r"(.*/)?(\.[^/]*|original|metal|onnx|openvino|gguf|coreml|flax|tflite|runs|logs|checkpoint-\d+|global_step\d+)/.*|"
    r"(.*/)?\.[^/]*|(.*/)?(training_args|optimizer|scheduler|scaler|rng_state|openvino_model)[^/]*\.bin|"
    r"(.*/)?trainer_state\.json"
)
"""Other formats' folders, training's leftovers, hidden files."""
_COMPANION = re.compile(
    r".*\.(json|jsonl|txt|model|jinja|md|ya?ml|toml|cfg|py|tiktoken|vocab|bpe|spm|merges)|"
    r"(.*/)?(tokenizer[^/]*|[^/.]+)"
)
"""Configs, tokenizers, templates, modules, the card and the licence."""
_WEIGHTS = re.compile(r"(?:.*/)?[^/]*(\.safetensors|\.bin)(?:\.index[^/]*\.json)?")
_PART = re.compile(r"[-_]?\d{4,}-of-\d{4,}")
_FORMAT_WORDS = re.compile(r"\.(safetensors|bin|index|json)(?=\.|$)")


def needed(names: Collection[str], shards: Shards) -> list[str]:
    """Which of a repository's files a merge needs.

    Of each folder the weights in one format, safetensors if there are any, else torch's .bin; in one variant; in one
    layout. Weights that lie beside the folders of a pipeline, or in folders beside a whole model, are copies.

    Args:
        names: all files, with `/` between folders.
        shards: what an index lists; called for the chosen indices only.

    Returns:
        Sorted names; without weights if there are none.

    Example:
        >>> needed(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"], lambda index: [])
        ['config.json', 'model.safetensors']
    """
    usable = {name for name in names if not _ASIDE.fullmatch(name)}
    weights = {name for folder in _folders(usable) for name in _of_folder(folder, shards)}
    companions = {name for name in usable if _COMPANION.fullmatch(name) and not _format(name)}
    return sorted(weights & set(names) | companions)


def is_weights(name: str) -> bool:
    """Whether a file that is needed holds numbers.

    Example:
        >>> is_weights("model.safetensors"), is_weights("model.safetensors.index.json")
        (True, False)
    """
    return name.endswith(_FORMATS)


def is_index(name: str) -> bool:
    """Whether a file says which shard holds which tensor.

    Example:
        >>> is_index("unet/diffusion_pytorch_model.safetensors.index.fp16.json"), is_index("model_index.json")
        (True, False)
    """
    return _format(name) != "" and name.endswith(".json")


def listed_in(path: Path, name: str) -> list[str]:
    """The files that an index lists, as seen from the repository's root.

    Args:
        path: the index on disk.
        name: its name in the repository.

    Returns:
        Sorted names; none if it cannot be read, which is told when the model is opened.
    """
    try:
        parsed: Any = read_json(path, LIST_BYTES)
    except (OSError, ValueError):
        return []
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    values = weight_map.values() if isinstance(weight_map, dict) else ()
    folder = name[: name.rfind("/") + 1]
    return sorted({folder + value for value in values if isinstance(value, str)})


def _folders(names: Collection[str]) -> list[list[str]]:
    """Weights and indices by folder, without the folders whose weights are copies."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(names):
        if _format(name):
            grouped.setdefault(name.rpartition("/")[0], []).append(name)
    if "model_index.json" in names and len(grouped) > 1:
        grouped.pop("", None)
    elif "" in grouped and "modules.json" not in names:
        grouped = {"": grouped[""]}
    return list(grouped.values())


def _of_folder(names: list[str], shards: Shards) -> list[str]:
    """One folder's weights in the preferred format."""
    for ending in _FORMATS:
        found = [name for name in names if _format(name) == ending]
        if any(name.endswith(ending) for name in found):
            return [name for group in _without_copies(found) for name in _whole(group, shards)]
    return []


def _format(name: str) -> str:
    """The format that a file holds, or that it is the index of; empty for other files."""
    match = _WEIGHTS.fullmatch(name)
    return match[1] if match else ""


def _without_copies(names: list[str]) -> list[list[str]]:
    """Files that belong together, an index with its shards or a file alone, each in one variant."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_key(name), []).append(name)
    best: dict[str, str] = {}
    for key in sorted(groups, key=_rank):
        if key.partition(".")[0] in _STEMS:
            best.setdefault(key.partition(".")[0], key)
    return [groups[key] for key in best.values()] or list(groups.values())


def _key(name: str) -> str:
    """What the parts of one model have in common: `unet/model-00001-of-00002.fp16.bin` is part of `model.fp16`."""
    return _FORMAT_WORDS.sub("", _PART.sub("", name.rpartition("/")[2]))


def _rank(key: str) -> tuple[int, str]:
    variant = key.partition(".")[2]
    return (_VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)), variant


def _whole(group: list[str], shards: Shards) -> list[str]:
    """An index decides which files are its shards, whatever they are called."""
    for index in filter(is_index, group):
        if parts := shards(index):
            return [index, *parts]
    return group
