"""Predictions against a slow reference that asks one example at a time; heads of every sort; what does not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.evaluation.models import SENTENCES, bert, jsonl, labelled, linear_head, llama, t5, vit
from weft.errors import InputError
from weft.evaluation.data import examples
from weft.evaluation.loading import make_task
from weft.evaluation.metrics import Predictions, measured
from weft.evaluation.models import Device, open_model
from weft.evaluation.predicting import Asking, predict


def ask(path: Path, place: Path, device: Device = Device(batch=5), **parts: Any) -> Predictions:  # noqa: B008
    parts = {"name": "x", "data": {"folder": str(place)}, **parts}
    return predict(open_model(path, device), examples(make_task(parts), "test"), Asking())


def states(path: Path, text: str) -> torch.Tensor:
    model, tokens = (
        transformers.AutoModel.from_pretrained(path).eval(),
        transformers.AutoTokenizer.from_pretrained(path),
    )
    with torch.no_grad():
        return model(**tokens(text, return_tensors="pt")).last_hidden_state[0].double()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_linear_head_one_text_at_a_time(tmp_path: Path, pooling: str) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    labelled(tmp_path, 3)
    made = ask(path, tmp_path, kind="classification", head=str(head), pooling=pooling)
    weights = {name: value.double() for name, value in load_file(head).items()}
    for text, row in zip(SENTENCES, made.scores, strict=True):
        found = states(path, text)
        vector = found.mean(0) if pooling == "mean" else found[0]
        expected = torch.softmax(weights["weight"] @ vector + weights["bias"], -1)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-5)


def test_the_model_s_own_head_and_a_pair_of_texts(tmp_path: Path) -> None:
    path = bert(tmp_path / "m", 1, "BertForSequenceClassification", num_labels=3)
    jsonl(tmp_path / "test.jsonl", [{"a": text, "b": "w1 w2", "label": 0} for text in SENTENCES])
    made = ask(path, tmp_path, kind="classification", columns={"text": ["a", "b"]})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        for text, row in zip(SENTENCES, made.scores, strict=True):
            logits = model(**tokens(text, "w1 w2", return_tensors="pt")).logits[0]
            np.testing.assert_allclose(row, torch.softmax(logits.double(), -1).numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_the_head_of_another_model(tmp_path: Path, kind: str) -> None:
    """An expert's head on another encoder: as if its tensors had been copied into one checkpoint."""
    more = {"num_labels": 2} if kind != "BertModel" else {}
    path, expert = (
        bert(tmp_path / "m", 0, kind, **more),
        bert(tmp_path / "expert", 1, "BertForSequenceClassification", num_labels=3),
    )
    labelled(tmp_path, 3)
    made = ask(path, tmp_path, kind="classification", head=str(expert))
    ours = load_file(path / "model.safetensors")
    both = {
        name: ours.get(name, ours.get(name.removeprefix("bert."), value)) if name.startswith("bert.") else value
        for name, value in load_file(expert / "model.safetensors").items()
    }
    save_file(both, expert / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(made.scores, ask(expert, tmp_path, kind="classification").scores)


def test_regression_reads_one_number(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 1, 0)
    jsonl(tmp_path / "test.jsonl", [{"text": text, "label": k / 3} for k, text in enumerate(SENTENCES)])
    made = ask(path, tmp_path, kind="regression", head=str(head))
    weights = load_file(head)
    with torch.no_grad():
        expected = [
            float(weights["weight"].double()[0] @ states(path, t).mean(0) + weights["bias"][0]) for t in SENTENCES
        ]
    np.testing.assert_allclose(made.scores, expected, atol=2e-5)
    assert made.targets.tolist() == [k / 3 for k in range(24)]


@pytest.mark.parametrize("batch", [1, 7])
def test_perplexity_one_token_at_a_time(tmp_path: Path, batch: int) -> None:
    """Every token once: the first follows the one that texts begin with, a piece follows the one before."""
    path = llama(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", [{"text": text} for text in SENTENCES])
    made = ask(path, tmp_path, Device(batch=batch), kind="language-modelling", longest=4)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(path)
    total, count = 0.0, 0
    for text in SENTENCES:
        ids = [tokens.bos_token_id, *tokens(text)["input_ids"]]
        for piece in (ids[k : k + 4] for k in range(0, len(ids), 3)):
            for end in range(1, len(piece)):
                with torch.no_grad():
                    logits = model(torch.tensor([piece[:end]])).logits[0, -1].double()
                total -= float(torch.log_softmax(logits, -1)[piece[end]])
                count += 1
    assert made.targets.sum() == count == len(" ".join(SENTENCES).split())
    told = measured("language-modelling", made)
    assert told["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert told["bits_per_byte"] == pytest.approx(total / math.log(2) / len("".join(SENTENCES).encode()), rel=1e-5)


QUESTIONS = [
    {"question": f"w{k} w{k + 7}", "label": k % 2,
     "choices": [f"w{k + j} w{3 * j}" if j % 2 else f"w{k + j}" for j in range(2 + k % 3)]}
    for k in range(9)
]  # fmt: skip


@pytest.mark.parametrize("make", [llama, t5])
def test_likelihood_of_choices_one_at_a_time(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", QUESTIONS)
    made = ask(path, tmp_path, kind="multiple-choice", prompt="{question} w59")
    tokens = transformers.AutoTokenizer.from_pretrained(path)
    kind = transformers.AutoModelForSeq2SeqLM if make is t5 else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(path).eval()
    assert made.scores.shape == (9, 4)
    for k, row in enumerate(QUESTIONS):
        assert np.isneginf(made.scores[k, len(row["choices"]) :]).all()
        for c, choice in enumerate(row["choices"]):
            before, after = tokens(f"{row['question']} w59")["input_ids"], tokens(choice)["input_ids"]
            with torch.no_grad():
                if make is t5:
                    labels = torch.tensor([after])
                    logits = model(input_ids=torch.tensor([before]), labels=labels).logits[0]
                else:
                    logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
            chosen = torch.log_softmax(logits.double(), -1)[range(len(after)), after]
            assert made.scores[k, c] == pytest.approx(float(chosen.sum()), rel=1e-5)
            assert made.sizes is not None
            assert made.sizes[k, c] == len(choice)


def test_choices_may_be_the_same_for_all_and_labels_their_text(tmp_path: Path) -> None:
    path = llama(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", [{"premise": "w1", "label": "w9"}, {"premise": "w2", "label": "w8"}])
    made = ask(path, tmp_path, kind="multiple-choice", prompt="{premise}", choices=["w8", "w9"])
    assert made.targets.tolist() == [1, 0]


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_images_one_at_a_time(tmp_path: Path, pooling: str) -> None:
    path, head = vit(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(5)]
    for k, picture in enumerate(pictures):
        picture.save(tmp_path / f"{k}.png")
    jsonl(tmp_path / "test.jsonl", [{"image": f"{k}.png", "label": k % 3} for k in range(5)])
    parts = {"kind": "image-classification", "head": str(head), "pooling": pooling, "normalize": True}
    made = ask(path, tmp_path, Device(batch=2), **parts)
    model = transformers.AutoModel.from_pretrained(path).eval()
    processor, weights = transformers.AutoImageProcessor.from_pretrained(path), load_file(head)
    for picture, row in zip(pictures, made.scores, strict=True):
        with torch.no_grad():
            found = model(**processor(images=picture, return_tensors="pt"))
        states = found.last_hidden_state[0]
        vector = {"cls": states[0], "mean": states.mean(0), "pooler": found.pooler_output[0]}[pooling]
        vector = vector / vector.norm()
        expected = torch.softmax((weights["weight"] @ vector + weights["bias"]).double(), -1)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-5)


def test_clip_s_embedding_of_images(tmp_path: Path) -> None:
    """The protocol of the vision tasks: the projected embedding against the classes' embeddings."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    vision = {**small, "image_size": 8, "patch_size": 4}
    text = {**small, "vocab_size": 64, "max_position_embeddings": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "m")
    transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(
        tmp_path / "m"
    )
    head = linear_head(tmp_path / "h.safetensors", 3, 0, width=12)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture.save(tmp_path / "0.png")
    jsonl(tmp_path / "test.jsonl", [{"image": "0.png", "label": 0}])
    parts = {"kind": "image-classification", "head": str(head), "pooling": "projection", "normalize": True}
    made = ask(tmp_path / "m", tmp_path, **parts)
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path / "m")(images=picture, return_tensors="pt")
    with torch.no_grad():
        vector = model.visual_projection(model.vision_model(**pixels).pooler_output)[0]
    weights, vector = load_file(head), vector / vector.norm()
    expected = torch.softmax((weights["weight"] @ vector + weights["bias"]).double(), -1)
    np.testing.assert_allclose(made.scores[0], expected.numpy(), atol=2e-5)


def test_bfloat16_products_say_nearly_the_same(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    labelled(tmp_path, 3)
    exact, coarse = (
        ask(path, tmp_path, Device(dtype=dtype), kind="classification", head=str(head)).scores
        for dtype in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, coarse)
    np.testing.assert_allclose(coarse, exact, atol=0.1)


# What does not fit


def refused(path: Path, place: Path, **parts: Any) -> str:
    with pytest.raises(InputError) as caught:
        ask(path, place, **parts)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_a_model_without_the_task_s_head(tmp_path: Path) -> None:
    path = bert(tmp_path / "m", 0)
    labelled(tmp_path, 3)
    assert refused(path, tmp_path, kind="classification") == (
        f"task x: {path} is a BertModel without a head for the task\n"
        "  -> name the head in the task's file (`head:`), or give --heads"
    )


def test_a_head_whose_tensors_are_not_there(tmp_path: Path) -> None:
    path = bert(tmp_path / "m", 0, "BertForSequenceClassification", num_labels=3)
    tensors = load_file(path / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "classifier" not in n}, path / "model.safetensors", {"format": "pt"})
    labelled(tmp_path, 3)
    assert refused(path, tmp_path, kind="classification") == (
        f"{path}: lacks classifier.bias, classifier.weight, which would be random numbers\n"
        "  -> give the task a `head`, or mend the checkpoint"
    )


def test_an_encoder_that_is_not_whole(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    tensors = load_file(path / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file({n: t for n, t in tensors.items() if n != lost}, path / "model.safetensors", {"format": "pt"})
    labelled(tmp_path, 3)
    told = refused(path, tmp_path, kind="classification", head=str(head))
    assert told.startswith(f"{path}: lacks {lost}, which would be random numbers")


def test_a_pooler_that_is_not_there_matters_only_where_it_is_asked(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    tensors = load_file(path / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, path / "model.safetensors", {"format": "pt"})
    labelled(tmp_path, 3)
    assert len(ask(path, tmp_path, kind="classification", head=str(head)).scores) == 24
    told = refused(path, tmp_path, kind="classification", head=str(head), pooling="pooler")
    assert told.startswith(f"{path}: lacks pooler.dense.bias, pooler.dense.weight")


def test_a_head_of_another_width_or_of_another_encoder(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0, width=17)
    labelled(tmp_path, 3)
    assert refused(path, tmp_path, kind="classification", head=str(head)) == (
        f"task x: the head {head} reads 17 numbers, the model gives 16\n"
        "  -> name a head that was trained on this encoder"
    )
    other = tmp_path / "other"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    transformers.BertForSequenceClassification(config).save_pretrained(other)
    assert "stands on another encoder than" in refused(path, tmp_path, kind="classification", head=str(other))


def test_a_file_that_is_no_head(tmp_path: Path) -> None:
    path = bert(tmp_path / "m", 0)
    labelled(tmp_path, 3)
    save_file({"v": torch.zeros(2), "w": torch.zeros(2, 3, 1)}, tmp_path / "h.safetensors")
    told = refused(path, tmp_path, kind="classification", head=str(tmp_path / "h.safetensors"))
    assert told == (
        f"task x: {tmp_path}/h.safetensors: "
        "a head is one matrix and at most one vector, but it holds v [2], w [2, 3, 1]\n"
        "  -> save the head's weight [classes, width] and its bias [classes] in a file of their own"
    )
    told = refused(path, tmp_path, kind="classification", head=str(tmp_path / "none.safetensors"))
    assert told.startswith(f"task x: there is no head {tmp_path}/none.safetensors")


def test_labels_beyond_the_head(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 2, 0)
    labelled(tmp_path, 3)
    assert "but the head tells 2 classes apart" in refused(path, tmp_path, kind="classification", head=str(head))


def test_a_head_for_another_kind_of_task(tmp_path: Path) -> None:
    path, one = bert(tmp_path / "m", 0), linear_head(tmp_path / "1.safetensors", 1, 0)
    three = linear_head(tmp_path / "3.safetensors", 3, 0)
    labelled(tmp_path, 3)
    told = refused(path, tmp_path, kind="classification", head=str(one))
    assert told.startswith("task x: the head gives one number, which tells no classes apart")
    told = refused(path, tmp_path, kind="regression", head=str(three))
    assert told.startswith("task x: the head tells 3 classes apart; regression needs one number")


def test_a_model_of_another_kind_than_the_task(tmp_path: Path) -> None:
    encoder, writer = bert(tmp_path / "m", 0), t5(tmp_path / "t5", 0)
    jsonl(tmp_path / "test.jsonl", [{"text": "w1 w2", "question": "w1", "choices": ["w2", "w3"], "label": 0}])
    assert "BertModel is no language model" in refused(encoder, tmp_path, kind="language-modelling")
    assert "BertModel is no language model" in refused(encoder, tmp_path, kind="multiple-choice")
    assert "predicts answers, not running text" in refused(writer, tmp_path, kind="language-modelling")


def test_choices_and_prompts_that_make_no_sense(tmp_path: Path) -> None:
    path = llama(tmp_path / "m", 0)
    good = {"question": "w1", "choices": ["w2", "w3"], "label": 0}
    jsonl(tmp_path / "test.jsonl", [good, {**good, "label": 2}])
    assert "the label of example 2 is 2, but it has 2 choices" in refused(path, tmp_path, kind="multiple-choice")
    jsonl(tmp_path / "test.jsonl", [good, {**good, "choices": ["w2"]}])
    assert "the choices of example 2 are ['w2']" in refused(path, tmp_path, kind="multiple-choice")
    told = refused(path, tmp_path, kind="multiple-choice", prompt="{querstion}?")
    assert "the prompt asks for 'querstion'" in told


def test_texts_with_nothing_to_predict(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [{"text": ""}])
    assert "have no token to predict" in refused(llama(tmp_path / "m", 0), tmp_path, kind="language-modelling")


def test_scores_that_are_not_finite(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    tensors = load_file(path / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][10] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    labelled(tmp_path, 3)
    told = refused(path, tmp_path, kind="classification", head=str(head))
    assert "its scores of example" in told
    assert told.endswith("are not finite\n  -> see `weft verify` for what is wrong with it")
