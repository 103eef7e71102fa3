"""A tiny Stable Diffusion pipeline with random weights, fine-tunes of it, and the ways that people store it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo import models as zoo

Pipe = Any
"""A `StableDiffusionPipeline`."""

PARTS = ("text_encoder", "unet", "vae")
_LETTERS = "abcdefgh"
_WORDS = [*_LETTERS, *(f"{c}</w>" for c in _LETTERS), "ab</w>", "<|startoftext|>", "<|endoftext|>"]
_GRID = 1024
"""Weights are multiples of 1/1024, so that differences of them are exact and no rounding decides what TIES trims."""


def pipeline(place: Path) -> Pipe:
    """A base pipeline.

    Args:
        place: where the tokenizer's files may be written.
    """
    diffusers: Any = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=2, cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=_text_encoder(), tokenizer=_tokenizer(place),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return _each(pipe, lambda part: _onto_grid(part.eval()))


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(_WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, projection_dim=8, bos_token_id=17, eos_token_id=18,
        )
    )  # fmt: skip


def _tokenizer(place: Path) -> Any:
    from transformers import CLIPTokenizer

    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(_WORDS)}))
    (place / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=16)


def _each(pipe: Pipe, change: Callable[[Any], Any]) -> Pipe:
    for part in PARTS:
        setattr(pipe, part, change(getattr(pipe, part)))
    return pipe


def _onto_grid(model: Any) -> Any:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.round(tensor * _GRID) / _GRID)
    return model


def tuned(base: Pipe, seed: int) -> Pipe:
    """A copy with every parameter of every part changed."""
    return _each(copy.copy(base), lambda part: _onto_grid(zoo.tuned(part, seed)))


def state(pipe: Pipe) -> dict[str, torch.Tensor]:
    """All tensors of all parts, by the names that Weft gives them."""
    return {f"{part}/{name}": t for part in PARTS for name, t in getattr(pipe, part).state_dict().items()}


def loaded(folder: Path) -> Pipe:
    """An output, loaded by diffusers."""
    diffusers: Any = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


def picture(pipe: Pipe) -> torch.Tensor:
    """What a pipeline paints, shape [1, 16, 16, 3]."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    painted = pipe("ab c", num_inference_steps=2, output_type="np", height=16, width=16, generator=noise).images
    return torch.from_numpy(painted)


# --- ways to store ----------------------------------------------------------------------------------------------------


def one_file(pipe: Pipe, folder: Path) -> None:
    pipe.save_pretrained(folder)


def shards(pipe: Pipe, folder: Path) -> None:
    pipe.save_pretrained(folder, max_shard_size="40KB")


def pickle(pipe: Pipe, folder: Path) -> None:
    """As pipelines were saved before there was safetensors."""
    pipe.save_pretrained(folder)
    for part in PARTS:
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
            stem = file.stem if part != "text_encoder" else "pytorch_model"
            torch.save(getattr(pipe, part).state_dict(), file.with_name(f"{stem}.bin"))


def variant(pipe: Pipe, folder: Path) -> None:
    """Only as a variant, in shards: `model.safetensors.index.fp16.json`."""
    pipe.save_pretrained(folder, variant="fp16", max_shard_size="40KB")
