"""Tiny models with tokenizers and data of their own, as folders that people would have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_SPOKEN = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> the a film was is not very good bad dull bright sad funny long short "
    "story actor plot ending he she they saw liked hated of and but it this that cat dog sat on mat red blue"
)
WORDS = _SPOKEN.split()
SENTENCES = (
    "the film was good", "a dull plot", "she liked this story and the ending", "not funny but long", "it was very bad",
    "they hated that actor", "bright and short", "he saw a cat", "the dog sat on the red mat", "a very sad ending",
    "the plot is dull and long", "funny story",
)  # fmt: skip
_NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_SPECIAL = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 0, "vocab_size": len(WORDS)}


def save_tokenizer(folder: Path, **options: Any) -> None:
    """Words between spaces; with [CLS] and [SEP] around them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if options.pop("framed", True):
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    made: Any = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=32, **options,
    )  # fmt: skip
    made.save_pretrained(folder)


def bert(folder: Path, seed: int = 0, kind: str = "BertForSequenceClassification", **options: Any) -> Path:
    """A BERT with a head; three classes with names."""
    return _saved(folder, seed, kind, "BertConfig", {**_SPECIAL, **_NARROW, **_CLASSES, **options, **_SHORT})


_SHORT = {"max_position_embeddings": 32}
_CLASSES = {
    "id2label": {0: "bad", 1: "good", 2: "so-so"}, "label2id": {"bad": 0, "good": 1, "so-so": 2}, "num_labels": 3,
}  # fmt: skip


def gpt2(folder: Path, seed: int = 0) -> Path:
    options = {**_SPECIAL, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return _saved(folder, seed, "GPT2LMHeadModel", "GPT2Config", options, framed=False)


def t5(folder: Path, seed: int = 0) -> Path:
    options = {
        **_SPECIAL, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0,
    }  # fmt: skip
    return _saved(folder, seed, "T5ForConditionalGeneration", "T5Config", options, framed=False)


def vit(folder: Path, seed: int = 0) -> Path:
    options = {**_NARROW, **_CLASSES, "image_size": 16, "patch_size": 8, "num_channels": 3}
    _saved(folder, seed, "ViTForImageClassification", "ViTConfig", options, words=False)
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 16, "width": 16},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "resample": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _saved(
    folder: Path, seed: int, kind: str, config: str, options: dict[str, Any], *, framed: bool = True, words: bool = True
) -> Path:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # a fine-tune of one base, with weights large enough to matter
        for parameter in model.parameters():
            parameter.mul_(4.0).add_(0.05 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(folder)
    if words:
        save_tokenizer(folder, framed=framed)
    return folder


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path: Path, count: int = len(SENTENCES), first: int = 0) -> Path:
    """Sentences with a class each."""
    rows = [{"text": SENTENCES[k % len(SENTENCES)], "label": k % 3} for k in range(first, first + count)]
    return jsonl(path, rows)


def images(folder: Path, count: int = 6) -> Path:
    """Pictures with a class each, as `save_to_disk` writes them."""
    import datasets
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    pixels = [Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8)) for _ in range(count)]
    made = datasets.Dataset.from_dict({"image": pixels, "label": [k % 3 for k in range(count)]})
    datasets.disable_progress_bars()
    made.cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


def summaries(path: Path) -> Path:
    """Sentences, and their first words."""
    return jsonl(path, [{"text": text, "summary": " ".join(text.split()[:2])} for text in SENTENCES])
