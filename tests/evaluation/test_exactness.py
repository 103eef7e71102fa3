"""Between a text and its score: filling up, number formats, where a choice begins, heads of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.evaluation.models import SENTENCES, SMALL, bert, jsonl, labelled, linear_head, llama, tokenizer
from tests.evaluation.test_predicting import ask, refused, states
from weft.errors import InputError
from weft.evaluation.heads import head_for
from weft.evaluation.loading import make_task
from weft.evaluation.models import Device, open_model


def told_of_tokenizer(folder: Path, **told: Any) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **told}))
    return folder


@pytest.mark.parametrize("told", [None, 0, 7])
def test_a_decoder_with_a_head_and_a_tokenizer_that_fills_nothing_up(tmp_path: Path, told: int | None) -> None:
    """Such heads read the last token before what a batch was filled up with, and the config says what that is."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "num_labels": 3}
    config = transformers.GPT2Config(**sizes, bos_token_id=2, eos_token_id=3, pad_token_id=told, initializer_range=0.4)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "m")
    tokenizer(tmp_path / "m", special=False)
    told_of_tokenizer(tmp_path / "m", pad_token=None)
    labelled(tmp_path, 3)
    made = ask(tmp_path / "m", tmp_path, kind="classification")
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    for text, row in zip(SENTENCES, made.scores, strict=True):
        states = model.transformer(torch.tensor([tokens(text)["input_ids"]])).last_hidden_state[0, -1]
        expected = torch.softmax((model.score.weight @ states).double(), -1)
        np.testing.assert_allclose(row, expected.detach().numpy(), atol=2e-5)


def test_a_tokenizer_that_fills_up_on_the_left(tmp_path: Path) -> None:
    """The first state is the text's all the same."""
    path = told_of_tokenizer(bert(tmp_path / "m", 0), padding_side="left")
    labelled(tmp_path, 3)
    head = linear_head(tmp_path / "h.safetensors", 3, 0)
    each, many = (
        ask(path, tmp_path, Device(batch=batch), kind="classification", head=str(head), pooling="cls").scores
        for batch in (1, 24)
    )
    np.testing.assert_allclose(many, each, atol=2e-5)


def test_a_coarse_checkpoint_is_run_in_float32_if_that_is_asked(tmp_path: Path) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    labelled(tmp_path, 3)
    transformers.AutoModel.from_pretrained(path).to(torch.bfloat16).save_pretrained(path)
    made = ask(path, tmp_path, kind="classification", head=str(head)).scores
    transformers.AutoModel.from_pretrained(path, dtype=torch.float32).save_pretrained(path)
    weights = load_file(head)
    for text, row in zip(SENTENCES, made, strict=True):
        logits = weights["weight"].double() @ states(path, text).mean(0) + weights["bias"].double()
        np.testing.assert_allclose(row, torch.softmax(logits, -1).numpy(), atol=2e-5)


def test_a_linear_head_is_float32_whatever_the_encoder_is(tmp_path: Path) -> None:
    """In bfloat16 the logits of two classes of many would often be equal, and the first of them would win."""
    model = open_model(bert(tmp_path / "m", 0), Device(dtype="bfloat16"))
    file = linear_head(tmp_path / "h.safetensors", 77, 0)
    task: Any = make_task({"name": "x", "kind": "classification", "data": {"folder": "."}, "head": str(file)})
    batch = model.tokenizer(SENTENCES[:1], return_tensors="pt")
    with torch.inference_mode(), model.device.casting():
        logits = head_for(task, model).scores(batch)
        vector = model.loaded.model(**batch).last_hidden_state[0].float().mean(0)
    weights = load_file(file)
    np.testing.assert_allclose(logits[0].numpy(), (weights["weight"] @ vector + weights["bias"]).numpy(), rtol=1e-2)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_head_for_tokens_is_none_for_texts(tmp_path: Path) -> None:
    path = bert(tmp_path / "m", 0, "BertForTokenClassification", num_labels=3)
    labelled(tmp_path, 3)
    told = refused(path, tmp_path, kind="classification")
    assert told.startswith(f"task x: {path} is a BertForTokenClassification without a head for the task")


def test_classes_in_another_order_than_the_head_s(tmp_path: Path) -> None:
    names = {"id2label": {0: "RED", 1: "GREEN", 2: "BLUE"}, "label2id": {"RED": 0, "GREEN": 1, "BLUE": 2}}
    path = bert(tmp_path / "m", 0, "BertForSequenceClassification", **names)
    jsonl(tmp_path / "test.jsonl", [{"text": "w1", "label": "blue"}, {"text": "w2", "label": "red"}])
    parts = {"kind": "classification", "labels": ["red", "green", "blue"]}
    assert ask(path, tmp_path, **parts).targets.tolist() == [2, 0]
    told = refused(path, tmp_path, **{**parts, "labels": ["blue", "red", "green"]})
    assert told.startswith("task x: the labels are blue, red, green, but the head's are RED, GREEN, BLUE\n")
    jsonl(tmp_path / "test.jsonl", [{"text": "w1", "label": "BLUE"}])
    assert ask(path, tmp_path, kind="classification").targets.tolist() == [2]


def test_a_data_set_with_classes_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MNLI's, whose data begin with entailment and whose best-known head begins with contradiction."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    path = bert(tmp_path / "m", 0, "BertForSequenceClassification", **names)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"text": ["w1"], "label": [0]}, features).to_parquet(tmp_path / "set/test.parquet")
    told = refused(path, tmp_path, kind="classification", data={"hub": str(tmp_path / "set")})
    assert told.startswith("task x: the labels are yes, no, but the head's are no, yes\n")


# Where a choice begins


def spaced(folder: Path) -> Path:
    """A tokenizer that puts a space before every text, as Llama's first did: read apart, a choice has one too many."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel

    words = ["[UNK]", "[BOS]", "▁", *(f"▁w{k}" for k in range(61))]
    made = Tokenizer(WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    names = {"unk_token": "[UNK]", "bos_token": "[BOS]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return folder


def likelihood(path: Path, before: list[int], after: list[int]) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1)[range(len(after)), after].sum())


@pytest.mark.parametrize("question", ["w1 w2", "w1 w2 "])
def test_a_choice_is_read_as_what_follows_the_prompt(tmp_path: Path, question: str) -> None:
    path = spaced(llama(tmp_path / "m", 0))
    tokens = transformers.AutoTokenizer.from_pretrained(path)
    assert tokens(" w3")["input_ids"] != tokens("w1 w3")["input_ids"][1:]
    jsonl(tmp_path / "test.jsonl", [{"question": question, "choices": ["w3", "w4 w5"], "label": 0}])
    made = ask(path, tmp_path, kind="multiple-choice")
    expected = [likelihood(path, [4, 5], after) for after in ([6], [7, 8])]
    assert made.scores[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_choices_without_a_prompt_follow_the_token_that_texts_begin_with(tmp_path: Path) -> None:
    path = llama(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", [{"question": "", "choices": ["w3", "w4 w5"], "label": 0}])
    made = ask(path, tmp_path, kind="multiple-choice")
    assert made.scores[0].tolist() == pytest.approx([likelihood(path, [2], a) for a in ([7], [8, 9])], rel=1e-5)


@pytest.mark.parametrize(("choice", "count"), [("", 0), (" ".join(["w3"] * 8), 8)])
def test_choices_of_which_nothing_or_not_all_can_be_read(tmp_path: Path, choice: str, count: int) -> None:
    """Nothing would be certain, and of too long a choice only the end would count."""
    path = llama(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", [{"question": "w1", "choices": ["w2", choice], "label": 0}])
    told = refused(path, tmp_path, kind="multiple-choice", longest=8)
    assert told.startswith(f"task x: {tmp_path}/test.jsonl: example 1: the choice '{choice[:5]}")
    assert f"is {count} tokens; there is room for 1 to 7" in told


def test_a_prompt_that_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    path = llama(tmp_path / "m", 0)
    jsonl(tmp_path / "test.jsonl", [{"question": "w1 w2 w3 w4", "choices": ["w5", "w6 w7"], "label": 0}])
    made = ask(path, tmp_path, kind="multiple-choice", longest=4)
    expected = [likelihood(path, [6, 7, 8], [9]), likelihood(path, [7, 8], [10, 11])]
    assert made.scores[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_texts_are_cut_to_the_positions_that_a_model_has(tmp_path: Path) -> None:
    """RoBERTa and its like begin to count after the token that fills up."""
    torch.manual_seed(0)
    config = transformers.MPNetConfig(**{**SMALL, "max_position_embeddings": 10}, pad_token_id=1)
    transformers.MPNetModel(config).save_pretrained(tmp_path / "m")
    tokenizer(tmp_path / "m", special=True)
    jsonl(tmp_path / "test.jsonl", [{"text": " ".join(["w1"] * 20), "label": 0}])
    head = linear_head(tmp_path / "h.safetensors", 2, 0)
    assert len(ask(tmp_path / "m", tmp_path, kind="classification", head=str(head)).scores) == 1


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """Else transformers would put it on, or load another model, and what is known of this one would be told of that."""
    path = bert(tmp_path / "m", 0)
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter, which belongs to another model"):
        open_model(path, Device())


def test_a_batch_that_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, head = bert(tmp_path / "m", 0), linear_head(tmp_path / "h.safetensors", 3, 0)
    labelled(tmp_path, 3)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError(problem)

    monkeypatch.setattr("transformers.BertModel.forward", fails)
    problem = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"
    assert refused(path, tmp_path, kind="classification", head=str(head)) == (
        f"{path}: on task x cpu has not enough memory\n  -> give a --batch of less than 5, or a shorter `longest`"
    )
    problem = "shapes differ"
    with pytest.raises(RuntimeError, match="shapes differ"):
        ask(path, tmp_path, kind="classification", head=str(head))
