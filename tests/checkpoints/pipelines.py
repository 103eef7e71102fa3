"""A small pipeline in safetensors files, written without diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import weft

Tensors = dict[str, np.ndarray]
WORDS = 12

LISTING: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", "requires_safety_checker": False,
    "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": {"architectures": ["CLIPTextModel"], "vocab_size": WORDS, "hidden_size": 8, "dtype": "float32"},
    "unet": {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0", "in_channels": 4, "out_channels": 4,
        "block_out_channels": [8, 16], "cross_attention_dim": 8,
    },
    "vae": {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4},
}  # fmt: skip
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "text_encoder": {"text_model.embeddings.token_embedding.weight": (WORDS, 8), "text_model.norm.weight": (8,)},
    "unet": {
        "conv_in.weight": (8, 4, 3, 3), "conv_out.weight": (4, 8, 3, 3), "mid.attn2.to_k.weight": (16, 8),
        "mid.bias": (16,),
    },
    "vae": {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3), "bias": (7,)},
}  # fmt: skip
STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
PARTS = tuple(STEMS)


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def tensors(seed: int) -> dict[str, Tensors]:
    """Random tensors for every part, by the parts' own names."""
    rng = np.random.default_rng(seed)
    return {
        part: {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for part, shapes in _SHAPES.items()
    }


def write(folder: Path, seed: int = 0, parts: Mapping[str, Tensors] | None = None) -> Path:
    """A pipeline's folder."""
    for part, held in (tensors(seed) if parts is None else parts).items():
        put(folder / part / "config.json", CONFIGS.get(part, {"architectures": ["Other"]}))
        save_file(held, folder / part / f"{STEMS.get(part, 'model')}.safetensors", {"format": "pt"})
    put(folder / "model_index.json", LISTING)
    put(folder / "scheduler" / "scheduler_config.json", {"steps": 9})
    put(folder / "tokenizer" / "vocab.json", {f"w{k}": k for k in range(WORDS)})
    return folder


def list_part(folder: Path, part: str, entry: object = ("other", "Model")) -> None:
    """Add a component to the listing, or change one."""
    path = folder / "model_index.json"
    put(path, json.loads(path.read_text()) | {part: entry})


def held(folder: Path) -> Tensors:
    """All tensors of a pipeline on disk, by the names that they have in a merge."""
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(folder.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def merged(place: Path, **recipe: Any) -> Path:
    """The folders base, a and b of a place, merged into out; those that are not there are written first."""
    for seed, name in enumerate(("base", "a", "b")):
        if not (place / name).exists():
            write(place / name, seed)
    parts = {"folder": place, "method": "task_arithmetic", "base": "base", "models": ["a", "b"], **recipe}
    weft.merge_to(parts, place / "out", workers=1)
    return place / "out"
