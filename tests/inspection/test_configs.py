"""Planted mistakes in config, tied weights, tokenizer and chat template; and what several families rightly do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.inspection.models import VOCABULARY, change, complains, merged, put, rewrite, tokenizer
from weft.inspection.verify import verify

Plant = Callable[[Path], object]


def config(**keys: object) -> Plant:
    return lambda out: change(out / "config.json", **keys)


def tokens(**keys: object) -> Plant:
    return lambda out: change(out / "tokenizer.json", **keys)


def template(text: object) -> Plant:
    return lambda out: change(out / "tokenizer_config.json", chat_template=text)


def weights(edit: Callable[[dict[str, np.ndarray]], object]) -> Plant:
    return lambda out: rewrite(out / "model.safetensors", edit)


def both(*plants: Plant) -> Plant:
    return lambda out: [plant(out) for plant in plants]


def text(name: str, content: str) -> Plant:
    return lambda out: (out / name).write_text(content)


PLANTED: dict[str, tuple[Plant, str, str]] = {
    "vocab_size": (
        config(vocab_size=41),
        "'model.embed_tokens.weight' [40, 16] has 40 rows, config.json says vocab_size 41",
        "config",
    ),
    "hidden_size": (config(hidden_size=18), "has 16 columns, config.json says hidden_size 18", "config"),
    "hidden_size that occurs nowhere": (
        config(hidden_size=18),
        "config.json says hidden_size 18, but no tensor has that size",
        "config",
    ),
    "intermediate_size": (
        config(intermediate_size=25),
        "config.json says intermediate_size 25, but no tensor",
        "config",
    ),
    "too many layers": (
        config(num_hidden_layers=5),
        "says num_hidden_layers 5, the tensors are of layers model.layers.0 to model.layers.3",
        "config",
    ),
    "too few layers": (config(num_hidden_layers=3), "config.json says num_hidden_layers 3", "config"),
    "layer types": (
        config(layer_types=["full_attention"]),
        "lists 1 layer_types, but says num_hidden_layers 4",
        "config",
    ),
    "heads for keys": (
        config(num_key_value_heads=4),
        "has 8 rows, config.json says num_key_value_heads 4 of 4: 16 rows",
        "config",
    ),
    "labels": (
        both(
            config(id2label={"0": "a"}), weights(lambda t: t.update({"score.weight": t["model.norm.weight"][:, None]}))
        ),
        "the classifier 'score.weight' [16, 1] has 16 rows, config.json has 1 labels in id2label",
        "config",
    ),
    "quantisation": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "config.json says that the weights are quantised with gptq, but all are float32",
        "config",
    ),
    "a config cut off": (text("config.json", '{"vocab_size": 4'), "config.json: cannot be read as JSON", "config"),
    "a config that is no map": (text("config.json", "[]"), "config.json: is not a JSON object", "config"),
    "a head that is missing": (
        weights(lambda t: t.pop("lm_head.weight")),
        "config.json says tie_word_embeddings: false, but there is no output embedding",
        "tied",
    ),
    "a tie that is none": (
        config(tie_word_embeddings=True),
        "'lm_head.weight' differs from 'model.embed_tokens.weight', but config.json says tie_word",
        "tied",
    ),
    "a token too many": (
        tokens(model={"vocab": {"a": 0, "b": 40}}),
        "token 'b' has id 40, but the embedding 'model.embed_tokens.weight'",
        "tokenizer",
    ),
    "an added token too many": (
        tokens(added_tokens=[{"id": 44, "content": "<x>"}]),
        "token '<x>' has id 44",
        "tokenizer",
    ),
    "a token too many beside": (text("added_tokens.json", '{"<y>": 50}'), "token '<y>' has id 50", "tokenizer"),
    "the same id twice": (
        tokens(model={"vocab": {"a": 0, "b": 0}}),
        "several tokens have one id: 'a' and 'b'",
        "tokenizer",
    ),
    "a tokenizer cut off": (text("tokenizer.json", '{"model"'), "tokenizer.json: cannot be read as JSON", "tokenizer"),
    "a tokenizer that is none": (
        text("tokenizer.json", '{"a": 1}'),
        "tokenizer.json: is not a vocabulary",
        "tokenizer",
    ),
    "a tokenizer config cut off": (
        text("tokenizer_config.json", "{"),
        "tokenizer_config.json: cannot be read",
        "tokenizer",
    ),
    "an unigram token too many": (tokens(model={"vocab": [["x", 0.0]] * 41}), "token 'x' has id 40", "tokenizer"),
    "a template that does not parse": (
        template("{% for x in y %}"),
        "tokenizer_config.json: chat_template: is not valid Jinja: line 1: Unexpected end",
        "template",
    ),
    "one of several templates": (
        template([{"name": "default", "template": "{{ x }}"}, {"name": "tools", "template": "{{ x"}]),
        "chat_template 'tools': is not valid Jinja",
        "template",
    ),
    "a template in a file": (
        text("chat_template.jinja", "a\n{% endif %}"),
        "chat_template.jinja: is not valid Jinja: line 2",
        "template",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted(tmp_path: Path, name: str) -> None:
    plant, says, check = PLANTED[name]
    out = merged(tmp_path)
    plant(out)
    complains(out, says, check, level="error", numbers=False)


SUSPICIOUS: dict[str, tuple[Plant, str, str]] = {
    "another format": (
        config(dtype="bfloat16"),
        "config.json says dtype bfloat16, but 100% of the weights' bytes are float32",
        "config",
    ),
    "an older key": (config(dtype=None, torch_dtype="float16"), "config.json says dtype float16", "config"),
    "an id without a row": (config(eos_token_id=40), "config.json: eos_token_id is 40, but the embedding", "tokenizer"),
    "an id in a list": (
        lambda out: put(out / "generation_config.json", {"eos_token_id": [1, 99]}),
        "generation_config.json: eos_token_id is 99",
        "tokenizer",
    ),
}


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_suspicious(tmp_path: Path, name: str) -> None:
    plant, says, check = SUSPICIOUS[name]
    out = merged(tmp_path)
    plant(out)
    complains(out, says, check, level="warning", numbers=False)
    assert verify(out, numbers=False).ok


def test_an_embedding_of_an_unknown_name(tmp_path: Path) -> None:
    config = {"architectures": ["NewForCausalLM"], "vocab_size": 21, "hidden_size": 8}
    folder = model(tmp_path / "m", config, {"tokens.table": (20, 8)})
    complains(folder, "config.json says vocab_size 21, but no tensor has that size", "config")


def test_a_tie_that_broke(tmp_path: Path) -> None:
    out = merged(tmp_path, tied=True)
    copy = "model.embed_tokens.weight"
    rewrite(out / "model.safetensors", lambda t: t.update({"lm_head.weight": t[copy].copy()}))
    assert not [f for f in verify(out).findings if f.check == "tied"]
    rewrite(out / "model.safetensors", lambda t: t["lm_head.weight"].__imul__(2))
    complains(out, "'lm_head.weight' differs from 'model.embed_tokens.weight'", "tied")


def test_the_tokenizer_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    rows = np.random.default_rng(0).standard_normal((9000, 4)).astype(np.float32)
    save_file({"embed_tokens.weight": rows}, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    put(tmp_path / "m" / "tokenizer.json", tokenizer(100))
    complains(tmp_path / "m", "token ids end at 101, but the embedding 'embed_tokens.weight'", level="warning")
    put(tmp_path / "m" / "tokenizer.json", tokenizer(8500))
    assert verify(tmp_path / "m").spotless, "some rows may be padding"


def test_vocabularies_without_a_fast_tokenizer(tmp_path: Path) -> None:
    out = merged(tmp_path)
    for name in ("tokenizer.json", "weft.lock.json", "weft_recipe.yaml"):
        (out / name).unlink()
    (out / "vocab.txt").write_text("".join(f"w{k}\n" for k in range(VOCABULARY + 2)))
    complains(out, "vocab.txt: token 'w41' has id 41")
    (out / "vocab.txt").unlink()
    put(out / "vocab.json", {"a": 0, "z": 77})
    complains(out, "vocab.json: token 'z' has id 77")
    put(out / "vocab.json", {"en": {"a": 0, "z": 77}})
    assert verify(out, numbers=False).spotless, "one vocabulary for each language has no common ids"


def piece(text: str) -> bytes:
    inside = bytes([0x0A, len(text)]) + text.encode() + b"\x15" + np.float32(-1.5).tobytes()
    return bytes([0x0A, len(inside)]) + inside


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_sentencepiece(tmp_path: Path, name: str) -> None:
    out = merged(tmp_path)
    for other in ("tokenizer.json", "weft.lock.json", "weft_recipe.yaml"):
        (out / other).unlink()
    trailer = b"\x12\x03\x18\x90\x01"  # another field, of a kind to be passed over
    (out / name).write_bytes(b"".join(piece(f"p{k}") for k in range(VOCABULARY)) + trailer)
    assert verify(out, numbers=False).spotless
    (out / name).write_bytes(b"".join(piece(f"p{k}") for k in range(VOCABULARY + 1)) + trailer)
    complains(out, f"{name}: token 'piece 40' has id 40")
    (out / name).write_bytes(piece("abc")[:-3])
    complains(out, f"{name}: is not a vocabulary: it was cut off")


def test_ranked_tokens(tmp_path: Path) -> None:
    out = merged(tmp_path)
    for other in ("tokenizer.json", "weft.lock.json", "weft_recipe.yaml"):
        (out / other).unlink()
    (out / "tokenizer.model").write_text("".join(f"YQ== {k}\n" for k in range(41)))
    complains(out, "tokenizer.model: token 'YQ==' has id 40")


def test_templates_that_only_chat_models_know(tmp_path: Path) -> None:
    out = merged(tmp_path)
    put(
        out / "tokenizer_config.json",
        {"chat_template": "{% for m in x %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}"},
    )
    assert verify(out).spotless


def test_without_jinja_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    out = merged(tmp_path)
    template("{% for")(out)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    verdict = verify(out)
    assert verdict.spotless
    assert verdict.skipped == ("the chat template was not parsed: install jinja2",)


def model(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "layers shared by all, embedding narrower than the model": (
        {"vocab_size": 30, "hidden_size": 8, "embedding_size": 4, "num_hidden_layers": 12, "num_hidden_groups": 1},
        {
            "albert.embeddings.word_embeddings.weight": (30, 4),
            "albert.encoder.albert_layer_groups.0.ffn.weight": (8, 8),
        },
    ),
    "layers that predict ahead": (
        {"num_hidden_layers": 2, "num_nextn_predict_layers": 1},
        {f"model.layers.{k}.mlp.weight": (4, 4) for k in range(3)},
    ),
    "a first layer of another kind": (
        {"num_hidden_layers": 5},
        {"model.layers.0.mlp.up.weight": (4, 4)}
        | {f"model.layers.{k}.mlp.experts.{e}.up.weight": (4, 4) for k in range(1, 5) for e in range(3)},
    ),
    "every other layer of another kind": (
        {"num_hidden_layers": 6},
        {f"model.layers.{k}.{'mamba' if k % 2 else 'attn'}.weight": (4, 4) for k in range(6)},
    ),
    "a sequence with modules that hold nothing": ({}, {f"visual.merger.mlp.{k}.weight": (4, 4) for k in (0, 2)}),
    "two towers": (
        {
            "text_config": {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2},
            "vision_config": {"hidden_size": 6, "num_hidden_layers": 3},
        },
        {"text.embed_tokens.weight": (20, 8)}
        | {f"text.layers.{k}.mlp.weight": (8, 8) for k in range(2)}
        | {f"vision.layers.{k}.mlp.weight": (6, 6) for k in range(3)},
    ),
    "two stacks of unequal height": (
        {"d_model": 8, "vocab_size": 20, "num_layers": 3, "num_decoder_layers": 2, "tie_word_embeddings": True},
        {"shared.weight": (20, 8)}
        | {f"encoder.block.{k}.layer.0.w.weight": (8, 8) for k in range(3)}
        | {f"decoder.block.{k}.layer.0.w.weight": (8, 8) for k in range(2)},
    ),
    "a router that is called classifier": (
        {"id2label": {"0": "a"}, "num_layers": 1},
        {"encoder.block.0.mlp.router.classifier.weight": (8, 4)},
    ),
    "gate and up in one": (
        {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12},
        {"embed_tokens.weight": (20, 8), "gate_up_proj.weight": (24, 8)},
    ),
    "positions with an offset": (
        {"vocab_size": 20, "max_position_embeddings": 64},
        {"embeddings.word_embeddings.weight": (20, 8), "embeddings.position_embeddings.weight": (66, 8)},
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_families_rightly_do(tmp_path: Path, name: str) -> None:
    assert verify(model(tmp_path / "m", *FAMILIES[name])).findings == ()


def test_a_tower_that_does_not_fit_is_a_suspicion(tmp_path: Path) -> None:
    config = {"text_config": {"vocab_size": 20, "num_hidden_layers": 3}}
    shapes = {"text.embed_tokens.weight": (28, 8)} | {f"text.layers.{k}.mlp.weight": (8, 8) for k in range(2)}
    folder = model(tmp_path / "m", config, shapes)
    complains(folder, "has 28 rows, config.json says text_config.vocab_size 20", level="warning")
    complains(folder, "config.json says text_config.num_hidden_layers 3", level="warning")
    complains(model(folder, config, {"text.embed_tokens.weight": (19, 8)}), "has 19 rows", level="error")


def test_what_the_base_has_too_is_not_the_merges_doing(tmp_path: Path) -> None:
    out = merged(tmp_path)
    change(out / "config.json", vocab_size=39)
    complains(out, "has 40 rows, config.json says vocab_size 39", level="error")
    change(tmp_path / "base" / "config.json", vocab_size=39)
    finding = complains(out, "has 40 rows, config.json says vocab_size 39", level="warning")
    assert "; so it is in base (" in finding.what
    assert verify(out).ok


def test_warnings_that_the_base_deserves_too_are_left_out(tmp_path: Path) -> None:
    out = merged(tmp_path)
    for folder in (out, tmp_path / "base"):
        change(folder / "config.json", dtype="bfloat16")
    assert verify(out).spotless
