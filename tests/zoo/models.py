"""Tiny random models of many families, and every way that people store them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

Inputs = Mapping[str, torch.Tensor]
Module = Any
"""A model with `save_pretrained` and `from_pretrained`: transformers' or diffusers'."""

VOCABULARY = 40
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PIXELS = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)

_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": VOCABULARY}
_NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_DECODER = {**_SPECIAL, **_NARROW, "num_key_value_heads": 1, "max_position_embeddings": 32}
_VISION = {**_NARROW, "image_size": 16, "patch_size": 8, "num_channels": 3}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        name: what tests call it.
        build: makes one with random weights.
        inputs: something that it can be asked.
        auto: the Auto class of transformers that loads it; empty where its own class does.
    """

    name: str
    build: Callable[[], Module]
    inputs: Inputs
    auto: str = ""

    def load(self, folder: Path) -> tuple[Module, dict[str, Any]]:
        """A stored model, and what its loader has to say about keys."""
        import transformers

        loader: Any = getattr(transformers, self.auto) if self.auto else type(self.build())
        model, said = loader.from_pretrained(folder, output_loading_info=True)
        return model, said


def _of(auto: str, config: str, **options: Any) -> Callable[[], Module]:
    def build() -> Module:
        import transformers

        return getattr(transformers, auto).from_config(getattr(transformers, config)(**options))

    return build


def _clip() -> Module:
    from transformers import CLIPConfig, CLIPModel

    text = {**_SPECIAL, **_NARROW, "max_position_embeddings": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=8))


def _unet() -> Module:
    unet: Any = pytest.importorskip("diffusers").UNet2DModel
    return unet(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


_TEXT = {"input_ids": TOKENS}
_EXPERTS = {"num_experts_per_tok": 2, "max_position_embeddings": 32}
_QWEN = {**_DECODER, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}
_T5 = {**_SPECIAL, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
_WHISPER = {
    **_SPECIAL, "d_model": 16, "num_mel_bins": 8, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_source_positions": 10,
    "max_target_positions": 16, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
_GPT2 = {**_SPECIAL, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}

LLAMA = Family("llama", _of("AutoModelForCausalLM", "LlamaConfig", **_DECODER), _TEXT, "AutoModelForCausalLM")
QWEN_MOE = Family("qwen-moe", _of("AutoModelForCausalLM", "Qwen2MoeConfig", **_QWEN), _TEXT, "AutoModelForCausalLM")
MIXTRAL = Family(
    "mixtral",
    _of("AutoModelForCausalLM", "MixtralConfig", **_DECODER, num_local_experts=4, num_experts_per_tok=2),
    _TEXT,
    "AutoModelForCausalLM",
)
GPT2 = Family("gpt2", _of("AutoModelForCausalLM", "GPT2Config", **_GPT2), _TEXT, "AutoModelForCausalLM")
BERT = Family(
    "bert",
    _of("AutoModelForMaskedLM", "BertConfig", **_SPECIAL, **_NARROW, max_position_embeddings=32),
    _TEXT,
    "AutoModelForMaskedLM",
)
T5 = Family(
    "t5",
    _of("AutoModelForSeq2SeqLM", "T5Config", **_T5),
    {**_TEXT, "decoder_input_ids": TOKENS[:, :3]},
    "AutoModelForSeq2SeqLM",
)
VIT = Family(
    "vit",
    _of("AutoModelForImageClassification", "ViTConfig", **_VISION, num_labels=3),
    {"pixel_values": PIXELS},
    "AutoModelForImageClassification",
)
RESNET = Family(
    "resnet",
    _of("AutoModelForImageClassification", "ResNetConfig", **_RESNET),
    {"pixel_values": PIXELS},
    "AutoModelForImageClassification",
)
CLIP = Family("clip", _clip, {**_TEXT, "pixel_values": PIXELS}, "AutoModel")
WHISPER = Family(
    "whisper",
    _of("AutoModelForSpeechSeq2Seq", "WhisperConfig", **_WHISPER),
    {"input_features": torch.linspace(-1, 1, 8 * 20).reshape(1, 8, 20), "decoder_input_ids": TOKENS[:, :3]},
    "AutoModelForSpeechSeq2Seq",
)
UNET = Family("unet", _unet, {"sample": PIXELS[..., :8, :8], "timestep": torch.tensor(7)})

FAMILIES = (LLAMA, QWEN_MOE, MIXTRAL, GPT2, BERT, T5, VIT, RESNET, CLIP, WHISPER, UNET)


def base_and_tuned(family: Family, dtype: torch.dtype = torch.float32, count: int = 2) -> tuple[Module, list[Module]]:
    """A model and fine-tunes of it, in one number format."""
    torch.manual_seed(0)
    base = family.build().eval()
    for name, tensor in base.state_dict().items():  # as after some training
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return base.to(dtype), [tuned(base, seed).to(dtype) for seed in range(1, count + 1)]


def tuned(base: Module, seed: int) -> Module:
    """A copy with every float parameter and statistic changed; what was tied stays tied."""
    random = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(base)
    with torch.no_grad():
        for tensor in {t.data_ptr(): t for t in model.state_dict().values() if t.is_floating_point()}.values():
            tensor += torch.rand(tensor.shape, generator=random).to(tensor.dtype) * 0.05
    return model


def ties(model: Module) -> set[frozenset[str]]:
    """The names that are one tensor, group by group."""
    groups: dict[int, set[str]] = {}
    for name, tensor in model.state_dict().items():
        groups.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


# --- ways to store ----------------------------------------------------------------------------------------------------


def one_file(model: Module, folder: Path) -> None:
    model.save_pretrained(folder)


def shards(model: Module, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="5KB")


def fused(model: Module, folder: Path) -> None:
    """A mixture of experts as the module holds it; `save_pretrained` writes one tensor for each expert."""
    model.save_pretrained(folder, save_original_format=False)


def pickle(model: Module, folder: Path) -> None:
    torch.save(_stored(model, folder), folder / f"{_pickled_stem(model)}.bin")


def old_pickle(model: Module, folder: Path) -> None:
    """As torch before 1.6 wrote it: not a zip archive."""
    state = _stored(model, folder)
    torch.save(state, folder / f"{_pickled_stem(model)}.bin", _use_new_zipfile_serialization=False)


def training_state(model: Module, folder: Path) -> None:
    """As a training script writes it: the weights are one part, and named after a wrapper."""
    state = {f"module.{name}": tensor for name, tensor in _stored(model, folder).items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "checkpoint.pt")


def pickle_shards(model: Module, folder: Path) -> None:
    """Two files and an index. A pickle keeps ties within a file only, so tied names stand in one."""
    state, stem = _stored(model, folder), _pickled_stem(model)
    half = {t.data_ptr() for t in list(state.values())[: len(state) // 2]}
    weight_map = {name: f"{stem}-0000{1 + (t.data_ptr() not in half)}-of-00002.bin" for name, t in state.items()}
    for shard in set(weight_map.values()):
        torch.save({name: t for name, t in state.items() if weight_map[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.bin.index.json").write_text(json.dumps(index))


def _stored(model: Module, folder: Path) -> dict[str, torch.Tensor]:
    """Save all that belongs to a model but its weights; return these."""
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return dict(model.state_dict())


def _pickled_stem(model: Module) -> str:
    return "diffusion_pytorch_model" if type(model).__module__.startswith("diffusers") else "pytorch_model"


Storage = Callable[[Module, Path], None]
STORAGES: tuple[Storage, ...] = (one_file, shards, pickle, pickle_shards)
