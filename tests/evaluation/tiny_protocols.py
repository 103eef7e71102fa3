"""Tiny models and data in the place of those that protocols speak of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.evaluation.models import WIDTH, jsonl, tokenizer

SIZE = 8
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def clip(folder: Path, seed: int) -> Path:
    """A whole CLIP, with tokenizer and image processor; its words are the letters of ASCII."""
    torch.manual_seed(seed)
    text = {
        **SMALL,
        "vocab_size": 64,
        "max_position_embeddings": 40,
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {**SMALL, "image_size": SIZE, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config={**text, "initializer_factor": 4.0}, vision_config={**vision, "initializer_factor": 4.0},
        projection_dim=12, initializer_factor=4.0,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(folder)
    letters(folder)
    processor(folder)
    return folder


def letters(folder: Path) -> None:
    """One token for each letter, between a beginning and an end."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *'abcdefghijklmnopqrstuvwxyz0123456789 ."-']
    made = Tokenizer(WordLevel({word: k for k, word in enumerate(known)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = Lowercase(), Split("", "isolated")
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)


def processor(folder: Path) -> None:
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)


def clip_expert(folder: Path, base: Path, seed: int) -> Path:
    """As FusionBench's: the image encoder alone, a little changed, and no processor."""
    torch.manual_seed(seed)
    model = transformers.CLIPVisionModel.from_pretrained(base)
    _nudge(model)
    model.save_pretrained(folder)
    return folder


def _nudge(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * parameter.std(correction=0).nan_to_num(0.0) * torch.randn_like(parameter))


def roberta(folder: Path, seed: int, labels: int = 0, base: Path | None = None) -> Path:
    """The base, for masked words; or with `labels` an expert with a head."""
    torch.manual_seed(seed)
    if base is None:
        small = {**SMALL, "vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.4}
        transformers.RobertaForMaskedLM(transformers.RobertaConfig(**small)).save_pretrained(folder)
    else:
        kind = transformers.RobertaForSequenceClassification
        model = kind.from_pretrained(base, num_labels=labels)
        _nudge(model)
        model.save_pretrained(folder)
    tokenizer(folder, special=True)
    return folder


def t5(folder: Path, seed: int, base: Path | None = None) -> Path:
    """With the gated layers that T0 has, and letters for words."""
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=3, initializer_factor=2.0, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    made = transformers.T5ForConditionalGeneration
    model = made(config) if base is None else made.from_pretrained(base)
    if base is not None:
        _nudge(model)
    model.save_pretrained(folder)
    letters(folder)
    return folder


def vectors(file: Path, base: Path, seed: int) -> Path:
    """(IA)3 vectors as TIES-Merging's code names them."""
    torch.manual_seed(seed)
    made = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if layer.endswith((".k", ".v", ".wi_1")):
            made[f"transformer.{layer}.ia3_vector"] = 1 + 0.3 * torch.randn(tensor.shape[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, file) if file.suffix == ".pt" else save_file(made, file)
    return file


def images(folder: Path, classes: int, count: int = 10, split: str = "test") -> Path:
    """Larger than the model reads, and not square."""
    torch.manual_seed(classes)
    rows = []
    for k in range(count):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        pixels = (torch.randint(0, 255, (1, 1, 3)) + torch.randint(0, 99, (13, 17, 3))).clamp(max=255).byte().numpy()
        Image.fromarray(pixels).save(folder / "pictures" / f"{k}.png")
        rows.append({"image": f"pictures/{k}.png", "label": (k * k) % min(classes, 4)})
    jsonl(folder / f"{split}.jsonl", rows)
    return folder


def protocol(file: Path, parts: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Of one's own, as files."""
    import yaml

    (file.parent / "tasks").mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        (file.parent / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({"sources": ["made up"], **task}))
    file.write_text(yaml.safe_dump({"sources": ["made up"], "methods": {}, "tasks": list(tasks), **parts}))
    return file


def words(count: int, more: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Rows of two texts and a label."""
    made = [{"sentence": f"w{k} w{k + 1}", "sentence1": f"w{k}", "sentence2": f"w{2 * k % 7} w3"} for k in range(count)]
    return [{**row, "label": k % 2, **(more[k] if k < len(more) else {})} for k, row in enumerate(made)]


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
