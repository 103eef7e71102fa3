"""Heads of sentences and multiplied vectors, against what the libraries themselves compute."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from tests.evaluation import tiny_protocols as tiny
from tests.evaluation.models import bert
from weft.errors import InputError
from weft.evaluation.activations import fold_vectors
from weft.evaluation.models import Device, open_model
from weft.evaluation.protocols.preparing import _cut, _processor
from weft.evaluation.zero_shot import write_zero_shot_head


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clip(tmp_path_factory.mktemp("clip") / "base", 0)


def test_one_sentence_for_each_class_gives_clips_own_logits(clip: Path, tmp_path: Path) -> None:
    classes = ["cat", "dog", "bird nest"]
    head = load_file(write_zero_shot_head(clip, classes, ["a {}."], tmp_path / "h.safetensors"))["weight"]
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(clip)(
        [f"a {c}." for c in classes], padding=True, return_tensors="pt"
    )
    pixels = torch.randn(4, 3, tiny.SIZE, tiny.SIZE)
    with torch.no_grad():
        wanted = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
        made = torch.nn.functional.normalize(wanted.image_embeds) @ head.T
    assert torch.allclose(made, wanted.logits_per_image, atol=1e-4)
    assert wanted.logits_per_image.std() > 0.1


def test_several_sentences_are_averaged_between_two_normalisations(clip: Path, tmp_path: Path) -> None:
    classes, templates = ["cat", "dog"], ["a {}.", "the {} 1", "{}"]
    head = load_file(write_zero_shot_head(clip, classes, templates, tmp_path / "h.safetensors"))["weight"].double()
    single = [
        load_file(write_zero_shot_head(clip, classes, [text], tmp_path / "one.safetensors"))["weight"].double()
        for text in templates
    ]
    temperature = float(load_file(clip / "model.safetensors")["logit_scale"].exp())
    mean = sum(one / temperature for one in single) / 3
    wanted = mean / mean.norm(dim=1, keepdim=True) * temperature
    assert torch.allclose(head, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(head, mean * temperature, rtol=1e-3)


def test_a_model_without_text_is_refused(clip: Path, tmp_path: Path) -> None:
    alone = tiny.clip_expert(tmp_path / "alone", clip, 1)
    with pytest.raises(InputError, match="CLIPVisionModel embeds no text"):
        write_zero_shot_head(alone, ["a", "b"], ["{}"], tmp_path / "h.safetensors")


@pytest.mark.parametrize("size", [(13, 17), (8, 8), (30, 9), (5, 6)])
def test_an_image_that_was_cut_to_size_gives_the_same_numbers(clip: Path, size: tuple[int, int]) -> None:
    processor = _processor(clip)
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    wanted, again = (
        processor(images=[one], return_tensors="np")["pixel_values"] for one in (image, _cut(processor, image))
    )
    assert np.array_equal(wanted, again)


def test_folded_vectors_do_what_scaled_activations_do(tmp_path: Path) -> None:
    base = tiny.t5(tmp_path / "base", 0)
    vectors = torch.load(tiny.vectors(tmp_path / "v.pt", base, 1))
    folded = fold_vectors(base, vectors, tmp_path / "folded")
    model = transformers.T5ForConditionalGeneration.from_pretrained(base).eval()
    for name, module in model.named_modules():
        vector = vectors.get(f"transformer.{name}.ia3_vector")
        if vector is not None:
            module.register_forward_hook(lambda _, __, made, vector=vector: made * vector)
    asked = {"input_ids": torch.tensor([[5, 6, 7, 3]]), "labels": torch.tensor([[8, 9, 3]])}
    with torch.no_grad():
        wanted = model(**asked).logits
        made = open_model(folded, Device()).loaded.model(**asked).logits
        plain = transformers.T5ForConditionalGeneration.from_pretrained(base).eval()(**asked).logits
    assert torch.allclose(made, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made, plain, rtol=1e-2)


def test_adapters_of_peft_are_folded_as_peft_runs_them(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tiny.t5(tmp_path / "base", 0)
    config = peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"], init_ia3_weights=False)
    model = peft.get_peft_model(transformers.T5ForConditionalGeneration.from_pretrained(base), config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    vectors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    folded = fold_vectors(base, vectors, tmp_path / "folded")
    asked = {"input_ids": torch.tensor([[5, 6, 7, 3]]), "labels": torch.tensor([[8, 9, 3]])}
    with torch.no_grad():
        wanted, made = model(**asked).logits, open_model(folded, Device()).loaded.model(**asked).logits
    assert torch.allclose(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transformer.encoder.block.9.layer.0.SelfAttention.k.ia3_vector": torch.ones(16)}, "has no layer for"),
        (
            {"transformer.encoder.block.0.layer.0.SelfAttention.k.ia3_vector": torch.ones(5)},
            "has the shape [5], but the layer",
        ),
        ({"transformer.shared.weight": torch.ones(5)}, "holds more than (IA)3 vectors: transformer.shared.weight"),
    ],
)
def test_vectors_of_another_model(tmp_path: Path, change: dict[str, torch.Tensor], told: str) -> None:
    base = tiny.t5(tmp_path / "base", 0)
    vectors = torch.load(tiny.vectors(tmp_path / "v.pt", base, 1)) | change
    with pytest.raises(InputError, match=re.escape(told)):
        fold_vectors(base, vectors, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_no_vectors_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("holds no (IA)3 vector")):
        fold_vectors(bert(tmp_path / "base", 0), {}, tmp_path / "folded")
