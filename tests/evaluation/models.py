"""Tiny models with random weights, heads and data, written to disk as people have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{k}" for k in range(60))]
WIDTH = 16
SENTENCES = [" ".join(f"w{(3 * k + j * j) % 60}" for j in range(1 + (5 * k) % 11)) for k in range(24)]
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32,
}  # fmt: skip


def tokenizer(folder: Path, special: bool) -> None:
    """One token for each word; with `special`, framed as BERT reads it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    if special:
        made.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names |= {} if special else {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)


def bert(folder: Path, seed: int, kind: str = "BertModel", **more: Any) -> Path:
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(transformers.BertConfig(**SMALL, initializer_range=0.4, **more))
    model.save_pretrained(folder)
    tokenizer(folder, special=True)
    return folder


def llama(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SMALL, initializer_range=0.4, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(folder, special=False)
    return folder


def t5(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=3, initializer_factor=2.0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer(folder, special=False)
    return folder


def vit(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    small = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ViTConfig(**small, image_size=8, patch_size=4, initializer_range=0.4)
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def linear_head(file: Path, classes: int, seed: int, width: int = WIDTH) -> Path:
    torch.manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.randn(classes, width), "bias": torch.randn(classes)}, file)
    return file


def jsonl(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def task(file: Path, **parts: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(parts))
    return file


def labelled(folder: Path, classes: int, split: str = "test") -> Path:
    rows = [{"text": text, "label": (k * k + k // 3) % classes} for k, text in enumerate(SENTENCES)]
    return jsonl(folder / f"{split}.jsonl", rows)
