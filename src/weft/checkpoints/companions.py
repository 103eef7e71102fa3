"""What a model folder holds besides weights: config, tokenizer, chat template, generation config, licence, modules."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from weft.kernels.dtypes import BFLOAT16, DType

_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "consolidated*.pth", "*.pt", "*.pth", "*.ckpt",
    "*.gguf", "*.ggml", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.npz", "adapter_model.*",
    "*.bin", "*.bin.index.json", "openvino_model.*", "tf_model.*", "flax_model.*",
)  # fmt: skip
_QUANTISATION = ("hf_quant_config.json",)
_RECORDS = ("README.md", "weft_recipe.yaml", "weft.lock.json")


def companions(folder: Path) -> Iterator[Path]:
    """The files that come along into a merged model, as paths relative to the folder.

    Left behind: weights in whatever format (they would be stale beside the merged ones), hidden files, the model card
    and records of an earlier merge, since the output has its own, and how the weights were quantised.
    The folders of a sentence-transformers model's further modules come along whole.
    Links to files are followed, as the Hub's cache needs; links to folders are not.
    """
    modules = _modules(folder)
    for place, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            relative = (Path(place) / name).relative_to(folder)
            kept = relative.parts[0] in modules or not any(
                fnmatch(name, p) for p in (*_WEIGHTS, *_QUANTISATION, *_RECORDS)
            )
            if kept and not name.startswith("."):
                yield relative


def _modules(folder: Path) -> set[str]:
    """Sub-folders that are parts of the model with weights of their own, as sentence-transformers lists them."""
    try:
        listed = json.loads((folder / "modules.json").read_text("utf-8"))
        return {str(module["path"]) for module in listed if module["path"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def copy_companions(folder: Path, target: Path, dtype: DType | None) -> None:
    """Copy them. A `config.json` that says how the weights are quantised loses that: what is written never is.

    Args:
        folder: the base model's folder.
        target: the folder that is being written.
        dtype: the format of all weights if the recipe changes it; the config then says so.
    """
    for relative in companions(folder):
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / relative, destination)
    if (target / "config.json").is_file():
        _rewrite(target / "config.json", dtype)


def _rewrite(config: Path, dtype: DType | None) -> None:
    """Make a config say what is written; one that says so already keeps its every byte."""
    try:
        parsed = json.loads(config.read_text("utf-8"))
    except (ValueError, RecursionError):
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
