"""What a model folder holds besides weights: config, tokenizer, chat template, generation config, licence, modules."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from weft.checkpoints.pipeline import LISTING, components, is_component, parts_of, unlisted
from weft.checkpoints.plain_files import read_json
from weft.kernels.dtypes import BFLOAT16, DType

_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "consolidated*.pth", "*.pt", "*.pth", "*.ckpt",
    "*.gguf", "*.ggml", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.npz", "adapter_model.*",
    "*.bin", "*.bin.index.json", "*.safetensors.index.*.json", "*.bin.index.*.json", "openvino_model.*", "tf_model.*",
    "flax_model.*",
)  # fmt: skip
_QUANTISATION = ("hf_quant_config.json",)
_RECORDS = ("README.md", "weft_recipe.yaml", "weft.lock.json")
_LEFT_BEHIND = (*_WEIGHTS, *_QUANTISATION, *_RECORDS)


def companions(folder: Path) -> Iterator[Path]:
    """The files that come along into a merged model, as paths relative to the folder.

    Left behind: weights in whatever format (they would be stale beside the merged ones), hidden files, the model card
    and records of an earlier merge, since the output has its own, and how the weights were quantised.
    The folders of a sentence-transformers model's further modules come along whole. Sub-folders with weights that a
    pipeline does not list are other models, and stay.
    Links to files are followed, as the Hub's cache needs; links to folders are not, but for components of a pipeline,
    which are often put together with links.
    """
    modules, listed = _modules(folder), components(folder)
    others = unlisted(folder) if listed else ()
    linked = [folder / name for name in listed if (folder / name).is_symlink()]
    for root in (folder, *linked):
        for place, folders, files in os.walk(root, followlinks=False):
            folders[:] = sorted(name for name in folders if not _is_other(Path(place) / name))
            for name in sorted(files):
                relative = (Path(place) / name).relative_to(folder)
                kept = relative.parts[0] in modules or not any(fnmatch(name, p) for p in _LEFT_BEHIND)
                kept = kept and (Path(place) / name).is_file()  # never a pipe or a device
                if kept and not name.startswith(".") and relative.parts[0] not in others:
                    yield relative


def _is_other(folder: Path) -> bool:
    """Whether a sub-folder is hidden, or an output of an earlier merge, which is a model of its own."""
    return folder.name.startswith(".") or (folder / "weft.lock.json").exists()


def _modules(folder: Path) -> set[str]:
    """Sub-folders that are parts of the model with weights of their own, as sentence-transformers lists them."""
    try:
        listed = read_json(folder / "modules.json")
        return {str(module["path"]) for module in listed if module["path"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def copy_companions(folder: Path, target: Path, dtype: DType | None) -> None:
    """Copy them. A config that says how the weights are quantised loses that: what is written never is.

    A pipeline's part of which the target holds no weights, since a rule drops them, is left out of its listing too.

    Args:
        folder: the base model's folder, or the base pipeline's.
        target: the folder that is being written; its weights have their places already.
        dtype: the format of all weights if the recipe changes it; the configs then say so.
    """
    parts = parts_of(folder)
    dropped = [part for part in parts if not (target / part).is_dir()]
    for relative in companions(folder):
        if relative.parts[0] not in dropped:
            destination = target / relative
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / relative, destination)
    for place in (target, *(target / part for part in parts)):
        if (place / "config.json").is_file():
            _rewrite(place / "config.json", dtype)
    if dropped:
        _unlist(target / LISTING, dropped)


def library_of(folder: Path) -> str | None:
    """Which library loads what a folder holds, as the Hub calls it; None if its configs do not say.

    Args:
        folder: a model's folder, or a pipeline's.
    """
    if components(folder):
        return "diffusers"
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    return "diffusers" if isinstance(config, dict) and "_diffusers_version" in config else "transformers"


def _unlist(listing: Path, dropped: list[str]) -> None:
    """Say of components that the pipeline is without them, as diffusers writes it."""
    parsed = json.loads(listing.read_text("utf-8"))
    parsed |= {name: [None, None] for name in dropped if is_component(parsed[name])}
    listing.write_text(json.dumps(parsed, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _rewrite(config: Path, dtype: DType | None) -> None:
    """Make a config say what is written; one that says so already keeps its every byte."""
    try:
        parsed = read_json(config)
    except (OSError, ValueError):
        return
    if isinstance(parsed, dict) and (_forget_quantisation(parsed) or dtype):
        _set_dtype(parsed, dtype or BFLOAT16)
        config.write_text(json.dumps(parsed, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _forget_quantisation(config: dict[str, Any]) -> bool:
    """Remove what makes a loader look for codes and scales, wherever it stands; whether there was anything."""
    text = config.get("text_config")
    places = (config, text) if isinstance(text, dict) else (config,)
    said = [place.pop(key, None) for place in places for key in ("quantization_config", "compression_config")]
    return any(said)


def _set_dtype(config: dict[str, Any], dtype: DType) -> None:
    present = [key for key in ("dtype", "torch_dtype") if key in config]
    config.update(dict.fromkeys(present, dtype.name))
