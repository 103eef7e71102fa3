"""Models that are run: tiny random ones, next to the parents they were merged from."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import weft
from tests.checkpoints.adapters import factors, written
from tests.inspection.models import change, complains, put, rewrite, told
from weft.errors import InputError
from weft.inspection.behaviour import Answer, judge_loss, judge_text, read_texts
from weft.inspection.findings import Finding
from weft.inspection.running import Continuation, Text
from weft.inspection.verify import verify

PROMPT = "word1 word2"
VARIED, STUCK = (1, 2, 1, 3), (7, 7, 7, 7)


def answer(role: str, tokens: tuple[int, ...] = VARIED, finite: bool = True, level: bool = False) -> Answer:
    return Answer(role, Path(role), Continuation("", tokens, finite, level))


def scored(role: str, loss: float) -> Answer:
    return Answer(role, Path(role), loss=loss, guessing=math.log(100))


def only(findings: Any) -> Finding | None:
    found = list(findings)
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("own", "parents", "level", "says"),
    [
        (answer("out"), [answer("a", STUCK)], None, ""),
        (answer("out", finite=False), [], "error", "the scores of tokens are NaN or infinite"),
        (answer("out", level=True), [], "error", "all tokens have the same score"),
        (answer("out", STUCK), [answer("a"), answer("b")], "error", "one token, 7, 4 times, which no parent does"),
        (answer("out", STUCK), [answer("a"), answer("b", STUCK)], "warning", "one token, 7, 4 times, as does b"),
        (answer("out", STUCK), [], "warning", "it writes one token, 7, 4 times"),
        (answer("out", (2,)), [answer("a")], None, ""),
        (scored("out", 1.0), [], None, ""),
    ],
)  # fmt: skip
def test_what_is_degenerate(own: Answer, parents: list[Answer], level: str | None, says: str) -> None:
    finding = only(judge_text(own, parents))
    assert (finding.level if finding else None) == level
    assert says in (finding.what if finding else "")


@pytest.mark.parametrize(
    ("own", "parents", "level", "says"),
    [
        (scored("out", 2.4), [scored("a", 2.0), scored("b", 1.0)], None, ""),
        (scored("out", 2.6), [scored("a", 2.0), scored("b", 1.0)], "warning", "2.600 nats per token, that of the"),
        (scored("out", 2.6), [scored("a", math.nan), scored("b", 3.0)], None, ""),
        (scored("out", math.nan), [scored("a", 2.0)], "error", "the loss is not a number"),
        (scored("out", 6.0), [], "warning", "choosing tokens at random would give 4.605"),
        (answer("out"), [scored("a", 1.0)], None, ""),
    ],
)  # fmt: skip
def test_what_is_much_worse(own: Answer, parents: list[Answer], level: str | None, says: str) -> None:
    finding = only(judge_loss(own, parents))
    assert (finding.level if finding else None) == level
    assert says in (finding.what if finding else "")


def test_texts(tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("one\n\n  \ntwo words\n")
    assert read_texts(lines) == (Text("one", "one"), Text("two words", "two words"))
    parsed = tmp_path / "texts.jsonl"
    parsed.write_text('"a"\n{"text": "b"}\n{"input": "c", "target": "d"}\n')
    assert read_texts(parsed) == (Text("a", "a"), Text("b", "b"), Text("d", "c"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', "a.jsonl:2: holds no text"),
        ("a.jsonl", "{", "a.jsonl:1: holds no text"),
        ("a.txt", " \n", "a.txt: holds no text"),
        ("a.csv", "a,b", "neither .txt nor .jsonl"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        read_texts(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path / "missing.txt")


def write(folder: Path, seed: int, kind: str = "llama") -> Path:
    """A tiny random model with a tokenizer that knows word0 to word61."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(seed)
    common = {"vocab_size": 64, "pad_token_id": 62, "eos_token_id": 63, "bos_token_id": 61}
    if kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.LlamaConfig(**common, **sizes, num_key_value_heads=2, initializer_range=0.3)
        model = transformers.LlamaForCausalLM(config)
    elif kind == "t5":
        sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 62}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**common, **sizes))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = transformers.BertModel(transformers.BertConfig(**common, **sizes))
    model.save_pretrained(folder)
    words = {f"word{k}": k for k in range(62)} | {"<pad>": 62, "<end>": 63}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    home = tmp_path_factory.mktemp("home")
    for k, name in enumerate(("base", "a", "b")):
        write(home / name, k)
    (home / "texts.txt").write_text("word1 word2 word3 word4\nword5 word6 word7\n")
    return home


def merged(home: Path, out: Path, *names: str, weight: float = 0.5) -> Path:
    models = [{"path": str(home / name), "weight": weight} for name in names]
    recipe = {"method": "task_arithmetic", "base": str(home / "base"), "models": models}
    weft.merge_to(recipe, out)
    return out


@pytest.mark.slow
def test_it_is_run_next_to_its_parents(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b")
    verdict = verify(out, generate=PROMPT, score=home / "texts.txt")
    assert verdict.ok, verdict.findings
    assert [trial.role for trial in verdict.trials] == ["output", "base", "a", "b"]
    assert len({trial.text for trial in verdict.trials}) == 4, "four models, four continuations"
    assert all(trial.text.startswith("word") and trial.loss is not None for trial in verdict.trials)
    assert verdict.skipped == ()


@pytest.mark.slow
def test_the_loss_is_what_transformers_computes(home: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    verdict = verify(home / "a", score=home / "texts.txt")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home / "a"), AutoTokenizer.from_pretrained(home / "a")
    losses, counts = [], []
    for line in (home / "texts.txt").read_text().splitlines():
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(float(model(ids, labels=ids).loss))
        counts.append(ids.shape[1] - 1)
    assert verdict.trials[0].loss == pytest.approx(np.average(losses, weights=counts), rel=1e-5)
    assert verdict.skipped == ("no parents were run: the folder holds no recipe that names them",)


def adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter of some size on two kinds of layer, with what peft needs to load it."""
    rng = np.random.default_rng(5)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(2):
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            rows, columns = load_file(base / "model.safetensors")[f"model.layers.{layer}.{module}.weight"].shape
            tensors |= factors(rng, f"model.layers.{layer}.{module}", (columns,), rows)
    modules = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    return written(folder, tensors, base_model_name_or_path=str(base), **modules)


@pytest.mark.slow
def test_a_parent_with_an_adapter_is_run_with_it(home: Path, tmp_path: Path) -> None:
    added = adapter(tmp_path / "lora", home / "a")
    models = [{"path": str(home / "a"), "adapter": str(added), "name": "tuned"}, str(home / "b")]
    weft.merge_to({"method": "linear", "models": models}, tmp_path / "out")
    verdict = verify(tmp_path / "out", generate=PROMPT, score=home / "texts.txt")
    assert verdict.skipped == ()
    assert [trial.role for trial in verdict.trials] == ["output", "tuned", "b"]
    tuned, plain = verdict.trials[1], verify(home / "a", generate=PROMPT, score=home / "texts.txt").trials[0]
    assert tuned.loss is not None
    assert tuned.loss != plain.loss
    weft.merge_to({"method": "linear", "models": models[:1]}, tmp_path / "whole")
    whole = verify(tmp_path / "whole", generate=PROMPT, score=home / "texts.txt").trials[0]
    assert (tuned.text, tuned.loss) == (whole.text, whole.loss)
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "a"), added).double()
    tokenizer = AutoTokenizer.from_pretrained(home / "a")
    losses, counts = [], []
    for line in (home / "texts.txt").read_text().splitlines():
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
        counts.append(ids.shape[1] - 1)
    assert tuned.loss == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


@pytest.mark.slow
def test_a_parent_whose_adapter_is_gone_or_does_not_fit(home: Path, tmp_path: Path) -> None:
    added = adapter(tmp_path / "lora", home / "a")
    models = [{"path": str(home / "a"), "adapter": str(added), "name": "tuned"}, str(home / "b")]
    weft.merge_to({"method": "linear", "models": models}, tmp_path / "out")
    change(added / "adapter_config.json", peft_type="IA3")
    [said] = [text for text in verify(tmp_path / "out", generate=PROMPT).skipped if text.startswith("parent tuned")]
    assert " was not run: " in said
    assert "IA3" in said
    shutil.rmtree(added)
    verdict = verify(tmp_path / "out", generate=PROMPT)
    assert [trial.role for trial in verdict.trials] == ["output", "b"]
    [said] = [text for text in verdict.skipped if text.startswith("parent tuned")]
    assert said.endswith("was not run: it is not a model folder here")


@pytest.mark.slow
def test_a_parent_that_would_hold_random_numbers_is_no_measure(home: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(home / name, tmp_path / name)
        rewrite(tmp_path / name / "model.safetensors", lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    weft.merge_to({"method": "linear", "models": [str(tmp_path / "a"), str(tmp_path / "b")]}, tmp_path / "out")
    rewrite(
        tmp_path / "out" / "model.safetensors",
        lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.weight": np.ones((48, 32), np.float32)}),
    )
    verdict = verify(tmp_path / "out", generate=PROMPT)
    assert [trial.role for trial in verdict.trials] == ["output"]
    assert any("was not run: it would hold random numbers" in text for text in verdict.skipped)


@pytest.mark.slow
def test_where_models_are_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from weft.inspection.running import chosen_device, load

    assert chosen_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"--device abacus: .*\n  -> choose cpu, or a device that is there"):
        verify(home / "a", generate=PROMPT, device="abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device(None) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen_device(None) == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert chosen_device(None) == "cpu"
    assert {p.device.type for p in load(home / "a", device="meta").model.parameters()} == {"meta"}


@pytest.mark.slow
def test_too_little_memory_says_nothing_of_the_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaForCausalLM

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(LlamaForCausalLM, "generate", full)
    verdict = verify(home / "a", generate=PROMPT)
    assert verdict.ok
    [said] = verdict.skipped
    assert "the device has not enough memory (OutOfMemoryError: CUDA out of memory" in said
    assert "--device cpu may have" in said


@pytest.mark.slow
def test_parents_that_are_gone_are_named(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b")
    recipe = (out / "weft_recipe.yaml").read_text()
    (out / "weft_recipe.yaml").write_text(recipe.replace(f"path: {home / 'b'}\n", "path: org/gone\n"))
    verdict = verify(out, generate=PROMPT)
    assert [trial.role for trial in verdict.trials] == ["output", "base", "a"]
    assert "parent b (org/gone) was not run: it is not a model folder here" in verdict.skipped


@pytest.mark.slow
def test_a_model_that_cannot_say_anything(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b")
    rewrite(out / "model.safetensors", lambda tensors: tensors["model.norm.weight"].fill(np.nan))
    verdict = verify(out, generate=PROMPT, score=home / "texts.txt")
    told(verdict, "after the prompt the scores of tokens are NaN or infinite", "generate", "error")
    told(verdict, "the loss is not a number", "score", "error")
    told(verdict, "32 NaN among 32 numbers", "numbers", "error")


@pytest.mark.slow
def test_a_model_that_says_one_thing_only(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b")
    rewrite(out / "model.safetensors", lambda tensors: tensors["lm_head.weight"].fill(0))
    complains(out, "after the prompt all tokens have the same score", "generate", generate=PROMPT)
    row = 5

    def favour(tensors: dict[str, np.ndarray]) -> None:
        """Whatever the state, token 5 has the highest score: the final norm lets only its direction through."""
        tensors["model.norm.weight"][:] = 0
        tensors["model.norm.weight"][0] = 1
        tensors["model.embed_tokens.weight"][:, 0] = 50
        tensors["lm_head.weight"][:] = 0
        tensors["lm_head.weight"][row, 0] = 1

    rewrite(out / "model.safetensors", favour)
    complains(out, f"it writes one token, {row}, 20 times, which no parent does", "generate", generate=PROMPT)


@pytest.mark.slow
def test_a_merge_that_went_much_too_far(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b", weight=40)
    complains(out, ", that of the worst parent (", "score", "warning", score=home / "texts.txt")


@pytest.mark.slow
def test_what_the_architecture_lacks_or_has_no_use_for(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a", "b")
    rewrite(
        out / "model.safetensors",
        lambda tensors: tensors.update({"extra": tensors.pop("model.layers.1.mlp.up_proj.weight")}),
    )
    verdict = verify(out, generate=PROMPT)
    lost = "LlamaForCausalLM needs 1 tensors that are missing: model.layers.1.mlp.up_proj.weight"
    told(verdict, lost, "load", "error")
    told(verdict, "LlamaForCausalLM has no use for 1 tensors: extra", "load", "warning")
    assert verdict.trials == ()
    assert f"{out} was not run: it would hold random numbers" in verdict.skipped
    change(out / "config.json", intermediate_size=44)
    complains(out, "have not the shape that LlamaForCausalLM expects: ", "load", generate=PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [({"model_type": "lama"}, "cannot be run: "), ({"num_attention_heads": 0}, "cannot be run: ")],
)
def test_a_model_that_does_not_load(home: Path, tmp_path: Path, config: dict[str, object], says: str) -> None:
    out = merged(home, tmp_path / "out", "a")
    change(out / "config.json", **config)
    complains(out, says, "load", generate=PROMPT)


@pytest.mark.slow
def test_a_tokenizer_of_another_model_is_told_and_not_crashed_on(home: Path, tmp_path: Path) -> None:
    out = merged(home, tmp_path / "out", "a")
    parsed = json.loads((out / "tokenizer.json").read_text())
    parsed["model"]["vocab"]["word1"] = 900
    put(out / "tokenizer.json", parsed)
    verdict = verify(out, generate=PROMPT)
    told(verdict, "cannot be run: the tokenizer makes token 900, but there are 64", "load", "error")
    told(verdict, "token 'word1' has id 900", "tokenizer", "error")


@pytest.mark.slow
def test_an_encoder_and_a_decoder(home: Path, tmp_path: Path) -> None:
    for k, name in enumerate(("t0", "t1")):
        write(tmp_path / name, k, "t5")
    weft.merge_to({"method": "linear", "models": [str(tmp_path / "t0"), str(tmp_path / "t1")]}, tmp_path / "out")
    texts = tmp_path / "pairs.jsonl"
    texts.write_text('{"input": "word1 word2", "target": "word3 word4"}\n')
    verdict = verify(tmp_path / "out", generate=PROMPT, score=texts)
    assert verdict.ok, verdict.findings
    assert [trial.role for trial in verdict.trials] == ["output", "t0", "t1"]
    assert all(trial.loss is not None and 0 < trial.loss < 50 for trial in verdict.trials)


@pytest.mark.slow
def test_a_model_that_writes_nothing(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "bert", 0, "bert")
    for asked, says in (
        ({"generate": PROMPT}, "BertModel does not write text"),
        ({"score": home / "texts.txt"}, "BertModel does not predict the next token"),
    ):
        verdict = verify(tmp_path / "bert", **asked)
        assert verdict.ok
        assert verdict.skipped == (f"{tmp_path / 'bert'} was not run: {says}",)


def test_a_lone_file_is_not_run(tmp_path: Path) -> None:
    weft.merge_to({"method": "linear", "models": [{"path": {"w": np.eye(3)}}]}, tmp_path / "x.safetensors")
    verdict = verify(tmp_path / "x.safetensors", generate=PROMPT)
    assert verdict.spotless
    assert verdict.skipped == ("a lone file was not run: only a folder says what model it is",)
    assert load_file(tmp_path / "x.safetensors")


def test_without_transformers_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tests.inspection.models import write as write_plain

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'need torch and transformers(.|\n)*pip install "weft\[torch\]" transformers'):
        verify(write_plain(tmp_path / "m", 0), generate=PROMPT)
