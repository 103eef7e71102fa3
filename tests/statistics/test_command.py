"""`weft fisher`, `weft gram`, `weft stats` as a person runs them, down to a merge; and killed for real."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.statistics.calling import run
from tests.statistics.models import SENTENCES, bert, gpt2, images, jsonl, summaries, t5, texts, vit

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytestmark = pytest.mark.slow

Make = Callable[[Path, int], Path]


def masked(folder: Path, seed: int) -> Path:
    return bert(folder, seed, kind="BertForMaskedLM")


def tokens(folder: Path, seed: int) -> Path:
    return bert(folder, seed, kind="BertForTokenClassification")


def words(path: Path) -> Path:
    rows = [{"tokens": text.split(), "ner_tags": [k % 3 for k in range(len(text.split()))]} for text in SENTENCES]
    return jsonl(path, rows)


KINDS: dict[str, tuple[Make, Callable[[Path], Path], str, str]] = {
    "bert": (bert, texts, "sequence-classification", "exact"),
    "tokens": (tokens, words, "token-classification", "sampled"),
    "gpt2": (gpt2, texts, "causal-lm", "sampled"),
    "masked": (masked, texts, "masked-lm", "sampled"),
    "t5": (t5, summaries, "seq2seq-lm", "sampled"),
    "vit": (vit, images, "image-classification", "exact"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_data_to_a_merge(kind: str, tmp_path: Path) -> None:
    make, data, task, labels = KINDS[kind]
    data(tmp_path / ("rows" if kind == "vit" else "rows.jsonl"))
    rows = "rows" if kind == "vit" else "rows.jsonl"
    for seed, name in enumerate("ab"):
        make(tmp_path / name, seed)
        done = run(tmp_path, "fisher", name, "--data", rows, "-o", f"{name}.safetensors", "--json", "--device", "cpu")
        told = json.loads(done.stdout)
        assert (told["ok"], told["task"], told["labels"]) == (True, task, labels)
    stored = load_file(tmp_path / "a" / "model.safetensors")
    fishers = [load_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert {n: t.shape for n, t in fishers[0].items()} == {n: t.shape for n, t in stored.items()}
    assert all(bool((t >= 0).all()) and t.dtype == torch.float32 for t in fishers[0].values())
    assert any(bool(t.any()) for t in fishers[0].values())
    given = "fisher={a: a.safetensors, b: b.safetensors}"
    run(tmp_path, "merge", "-m", "fisher", "a", "b", "-o", "merged", "-p", given, "-p", "favor_target=false", "-q")
    check_merged(tmp_path, fishers)


def check_merged(folder: Path, fishers: list[dict[str, torch.Tensor]]) -> None:
    """Against the formula, with the norms that the files tell."""
    merged = load_file(folder / "merged" / "model.safetensors")
    models = [load_file(folder / name / "model.safetensors") for name in "ab"]
    norms = []
    for name in "ab":
        with safe_open(folder / f"{name}.safetensors", "np") as file:
            norms.append(float(file.metadata()["norm"]))
    for name, tensor in merged.items():
        weights = [np.maximum(f[name].double().numpy(), 1e-6) / norm for f, norm in zip(fishers, norms, strict=True)]
        values = [m[name].double().numpy() for m in models]
        expected = (weights[0] * values[0] + weights[1] * values[1]) / (weights[0] + weights[1])
        assert np.allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
def test_gram_matrices(kind: str, tmp_path: Path) -> None:
    make, data, _, _ = KINDS[kind]
    rows = "rows" if kind == "vit" else "rows.jsonl"
    make(tmp_path / "a", 1), data(tmp_path / rows)
    run(tmp_path, "gram", "a", "--data", rows, "-o", "g.safetensors", "--device", "cpu", "-q")
    grams, stored = load_file(tmp_path / "g.safetensors"), load_file(tmp_path / "a" / "model.safetensors")
    assert grams
    for name, gram in grams.items():
        inputs = stored[name].shape[0 if kind == "gpt2" else 1]  # what GPT-2 calls Conv1D is stored turned
        assert gram.shape == (inputs, inputs)
        assert torch.allclose(gram, gram.T)
        values = torch.linalg.eigvalsh(gram.double())
        assert values.min() > -1e-6 * values.max()
    assert "gram of" in run(tmp_path, "stats", "show", "g.safetensors").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_has_the_names_of_the_checkpoint(kind: str, tmp_path: Path) -> None:
    make, data, task, _ = KINDS[kind]
    rows = "rows" if kind == "vit" else "rows.jsonl"
    make(tmp_path / "base", 1), make(tmp_path / "a", 2), data(tmp_path / rows)
    done = run(tmp_path, "gradient", "base", "--data", rows, "-o", "g.safetensors", "--device", "cpu", "--json")
    told = json.loads(done.stdout)
    assert (told["ok"], told["kind"], told["task"], told["labels"]) == (True, "gradient", task, "observed")
    slopes, stored = load_file(tmp_path / "g.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert {n: t.shape for n, t in slopes.items()} == {n: t.shape for n, t in stored.items()}
    options = ["--data", rows, "--device", "cpu", "-q", "--partition", "model"]
    run(tmp_path, "importance", "base", "a", *options, "-o", "i.safetensors")
    assert {float(t) for t in load_file(tmp_path / "i.safetensors").values()} != {0.0}
    for file in "gi":
        run(tmp_path, "merge", "-m", "apl", "-b", "base", "a", "-o", f"out-{file}", "-q",
            "-p", f"{ {'g': 'gradient', 'i': 'importance'}[file] }={file}.safetensors")  # fmt: skip
    run(tmp_path, "merge", "-m", "dare", "-b", "base", "a", "-o", "dare", "-q")
    dare, told_by_gradient = (load_file(tmp_path / out / "model.safetensors") for out in ("dare", "out-g"))
    assert any(not dare[name].equal(told_by_gradient[name]) for name in dare), "gradients have a say"


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """With SIGKILL, at whatever moment."""
    bert(tmp_path / "a", 1), texts(tmp_path / "rows.jsonl", 900)
    arguments = ["fisher", "a", "--data", "rows.jsonl", "--batch-size", "2", "--keep-every", "0", "--device", "cpu"]
    run(tmp_path, *arguments, "-o", "whole.safetensors", "-q")
    kills = 0
    for pause in [0.0, random.random(), random.random()]:
        kills += killed(tmp_path, [*arguments, "-o", "killed.safetensors"], pause)
    assert kills
    done = run(tmp_path, *arguments, "-o", "killed.safetensors")
    assert "going on with an interrupted measurement: " in done.stderr
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "killed.safetensors", "rows.jsonl", "whole.safetensors"]


def killed(folder: Path, arguments: list[str], pause: float) -> bool:
    """Run a command and kill it a moment after its next snapshot; whether it was still running."""
    snapshot = folder / ".killed.safetensors.weft-snapshot"
    before = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "weft", *arguments], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and (not snapshot.exists() or snapshot.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    bert(tmp_path / "a", 1), texts(tmp_path / "rows.jsonl", 900)
    command = [sys.executable, "-m", "weft", "fisher", "a", "--data", "rows.jsonl", "--keep-every", "0", "-o",
               "f.safetensors", "--batch-size", "1", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    while not (tmp_path / ".f.safetensors.weft-snapshot").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130
    assert "What was summed is kept in .f.safetensors.weft-snapshot: the same command goes on from there." in told


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two models of one layout, one of another, and their Fishers."""
    bert(tmp_path / "a", 1), bert(tmp_path / "b", 2), gpt2(tmp_path / "g")
    texts(tmp_path / "rows.jsonl")
    for name in "abg":
        run(tmp_path, "fisher", name, "--data", "rows.jsonl", "-o", f"{name}.safetensors", "-q", "--device", "cpu")
    return tmp_path


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], None], keep: bool = True) -> None:
    """The same file with other numbers."""
    with safe_open(path, "np") as file:
        told = dict(file.metadata())
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, told if keep else None)


def merge(folder: Path, given: str, code: int = 2) -> str:
    done = run(folder, "merge", "-m", "fisher", "a", "b", "-o", "out", "-p", f"fisher={given}", code=code)
    assert (folder / "out").exists() == (code == 0)
    return done.stderr


def test_a_merge_refuses_statistics_that_do_not_belong(measured: Path) -> None:
    told = merge(measured, "{a: b.safetensors}")
    assert "fisher of model 'a' (b.safetensors) was not measured on a, but on another model of this layout" in told
    told = merge(measured, "{a: g.safetensors, b: b.safetensors}")
    assert told.count("error:") == 1
    assert "fisher of model 'a' (g.safetensors) was not measured on a, but on a model with other tensors (g)" in told
    assert "problems" not in told


def evidence(folder: Path) -> None:
    """Of the merges of a and b, a is the base."""
    options = ["--data", "rows.jsonl", "--device", "cpu", "-q"]
    bert(folder / "c", 3)
    run(folder, "gradient", "a", *options, "-o", "gradient.safetensors")
    for name in "bc":
        run(folder, "importance", "a", name, *options, "-o", f"importance-{name}.safetensors")


@pytest.mark.parametrize("kind", ["gradient", "importance"])
def test_from_data_to_a_merge_by_importance(kind: str, tmp_path: Path) -> None:
    """Nothing is dropped: base + sum 2 softmax_i(I_i / tau) delta_i in every layer, I from what the files hold."""
    for seed, name in enumerate(("base", "a", "b")):
        bert(tmp_path / name, seed)
        texts(tmp_path / f"{name}.jsonl", 6, first=3 * seed)
    for name in "ab":
        models = ["base"] if kind == "gradient" else ["base", name]
        run(tmp_path, kind, *models, "--data", f"{name}.jsonl", "-o", f"{name}.safetensors", "-q", "--device", "cpu")
    shown = run(tmp_path, "stats", "show", "a.safetensors").stdout
    assert f"{kind} of sequence-classification" in shown
    assert ("base, by layer" in shown) is (kind == "importance")
    given = f"{kind}={{a: a.safetensors, b: b.safetensors}}"
    options = ["-p", given, "-p", "drop=0", "-p", "weight_temperature=0.05"]
    run(tmp_path, "merge", "-m", "apl", "-b", "base", "a", "b", "-o", "merged", *options, "-q")
    base, a, b, merged = (load_file(tmp_path / m / "model.safetensors") for m in ("base", "a", "b", "merged"))
    known = [load_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    changes = [{name: model[name].double() - base[name].double() for name in base} for model in (a, b)]
    shares = []
    for name in base:
        layer = ".".join(name.split(".")[:4]) if "layer." in name else name
        part = [other for other in base if other == layer or other.startswith(f"{layer}.")]
        if kind == "gradient":
            matters = [abs(sum(float((d[n] * g[n]).sum()) for n in part)) for d, g in zip(changes, known, strict=True)]
        else:
            matters = [float(one[name]) for one in known]
        weights = 2 * (torch.tensor(matters, dtype=torch.float64) / 0.05).softmax(0)
        shares.append(float(weights[0]))
        expected = base[name].double() + sum(w * d[name] for w, d in zip(weights, changes, strict=True))
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert max(shares) - min(shares) > 0.1, "else weights say nothing"


def test_a_merge_knows_at_which_model_it_was_measured(measured: Path) -> None:
    evidence(measured)

    def told(base: str, model: str, given: str, code: int = 2) -> str:
        done = run(measured, "merge", "-m", "apl", "-b", base, model, "-o", "out", "-p", given, "--overwrite",
                   code=code)  # fmt: skip
        return done.stderr

    told("a", "b", "gradient=gradient.safetensors", 0), told("a", "c", "gradient=gradient.safetensors", 0)
    assert (
        "gradient of model 'c' (gradient.safetensors) was not measured on b, but on another model of this layout: "
        "its numbers differ (a)\n  -> give the statistics of this very model; or measure it, with `weft gradient`; or, "
        "if you know better, remove the entries model_... from their metadata"
    ) in told("b", "c", "gradient=gradient.safetensors")
    told("a", "b", "importance=importance-b.safetensors", 0)
    assert "importance of model 'c' (importance-b.safetensors) was not measured on c, but on another model" in told(
        "a", "c", "importance=importance-b.safetensors"
    )
    other = told("c", "b", "importance=importance-b.safetensors")
    assert "(importance-b.safetensors) was not measured on c, but on another model of this layout: its numbers" in other
    assert "remove the entries base_... from their metadata" in other


def test_a_merge_refuses_another_kind_of_statistics(measured: Path) -> None:
    run(measured, "gradient", "a", "--data", "rows.jsonl", "-o", "s.safetensors", "-q", "--device", "cpu")
    assert (
        "fisher of model 'a' (s.safetensors) holds what `weft gradient` measures\n  -> give what `weft fisher` wrote"
    ) in merge(measured, "{a: s.safetensors, b: b.safetensors}")


def test_a_merge_refuses_numbers_that_cannot_be(measured: Path) -> None:
    name = "classifier.weight"
    changed(measured / "a.safetensors", lambda t: t[name].view(-1)[3].fill_(float("nan")))
    told = merge(measured, "{a: a.safetensors, b: b.safetensors}")
    assert name in told
    assert "NaN" in told or "not finite" in told
    shown = run(measured, "stats", "show", "a.safetensors", code=1)
    assert f"{name}: 1 numbers are NaN, infinite or negative" in shown.stdout
    changed(measured / "b.safetensors", lambda t: t[name].view(-1)[0].fill_(-1.0))
    told = merge(measured, "{b: b.safetensors}")
    assert "below zero" in told


def test_a_merge_refuses_other_shapes(measured: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.weight"] = tensors["classifier.weight"][:2].clone()

    changed(measured / "a.safetensors", narrow)
    told = merge(measured, "{a: a.safetensors}")
    assert "tensor 'classifier.weight' is float32 [2, 16], the models have float32 [3, 16]" in told


def test_files_made_elsewhere_are_accepted(measured: Path) -> None:
    changed(measured / "b.safetensors", lambda tensors: None, keep=False)
    merge(measured, "{a: b.safetensors, b: b.safetensors}", code=0)


def test_a_merge_from_a_recipe(measured: Path) -> None:
    recipe = {
        "method": "fisher", "models": [{"path": "a"}, {"path": "b"}], "output": {"dtype": "bfloat16"},
        "parameters": {"fisher": {"a": "a.safetensors", "b": "b.safetensors"}},
    }  # fmt: skip
    (measured / "r.yaml").write_text(json.dumps(recipe))
    run(measured, "merge", "r.yaml", "-o", "out", "-q")
    assert load_file(measured / "out" / "model.safetensors")["classifier.weight"].dtype == torch.bfloat16


def test_stats_show_and_add(measured: Path) -> None:
    texts(measured / "more.jsonl", 5, first=3)
    run(measured, "fisher", "a", "--data", "more.jsonl", "-o", "more.safetensors", "-q", "--device", "cpu")
    shown = run(measured, "stats", "show", "a.safetensors", "--tensors").stdout
    assert "fisher of sequence-classification" in shown
    assert "12 examples" in shown
    assert "classifier.weight  3x16  mean " in shown
    done = run(measured, "stats", "add", "a.safetensors", "more.safetensors", "-o", "sum.safetensors")
    assert done.stdout.startswith("sum.safetensors  fisher of sequence-classification, 17 examples")
    a, more, total = (load_file(measured / f"{name}.safetensors") for name in ("a", "more", "sum"))
    for name in total:
        expected = (12 * a[name].double() + 5 * more[name].double()) / 17
        assert torch.allclose(total[name].double(), expected, rtol=1e-6, atol=0), name
    merge(measured, "{a: sum.safetensors, b: b.safetensors}", code=0)
    assert "exists" in run(measured, "stats", "add", "a.safetensors", "more.safetensors", "-o", "sum.safetensors",
                           code=2).stderr  # fmt: skip
    told = run(measured, "stats", "add", "a.safetensors", "b.safetensors", "-o", "x.safetensors", code=2).stderr
    assert "not the same model" in told
    told = json.loads(run(measured, "stats", "show", "a.safetensors", "--json").stdout)
    assert (told["ok"], told["examples"], len(told["tensors"])) == (True, 12, len(a))


def test_what_a_person_gets_wrong(measured: Path) -> None:
    def told(*arguments: str) -> str:
        done = run(measured, "fisher", *arguments, code=2)
        assert done.stdout == ""
        assert not (measured / "f.safetensors").exists()
        return done.stderr

    out = ["-o", "f.safetensors", "--device", "cpu"]
    assert "error: nowhere: no such folder" in told("nowhere", "--data", "rows.jsonl", *out)
    assert "row.jsonl: no such file or folder" in told("a", "--data", "row.jsonl", *out)
    missing = told("a", "--data", "rows.jsonl", "--text", "txt", *out)
    assert "rows.jsonl: has no column 'txt' (--text)\n  -> did you mean 'text'? there are: text, label" in missing
    assert (
        "a.safetensors exists"
        in run(measured, "fisher", "a", "--data", "rows.jsonl", "-o", "a.safetensors", code=2).stderr
    )
    done = run(measured, "fisher", "a", "--data", "row.jsonl", *out, "--json", code=2)
    assert json.loads(done.stdout)["problems"][0]["what"] == "row.jsonl: no such file or folder"


def test_what_a_person_gets_wrong_with_losses(measured: Path) -> None:
    def told(*arguments: str) -> str:
        done = run(measured, *arguments, "-o", "f.safetensors", "--device", "cpu", code=2)
        assert done.stdout == ""
        assert not (measured / "f.safetensors").exists()
        return done.stderr

    jsonl(measured / "unlabelled.jsonl", [{"text": "the film was good"}])
    missing = "error: unlabelled.jsonl: which column is the label?\n  -> name the column with --label; there are: text"
    assert missing in told("gradient", "a", "--data", "unlabelled.jsonl")
    assert missing in told("importance", "a", "b", "--data", "unlabelled.jsonl")
    assert "nowhere: no such file or folder" in told("importance", "a", "nowhere", "--data", "rows.jsonl")
    foreign = told("importance", "a", "g", "--data", "rows.jsonl")
    assert "g has no tensor 'bert.embeddings.LayerNorm.bias'" in foreign
    narrow = measured / "narrow"
    bert(narrow, 1, vocab_size=20)
    assert (
        "tensor 'bert.embeddings.word_embeddings.weight' has in narrow the shape [20, 16], in a [45, 16]\n"
        "  -> give a model that was fine-tuned from a"
    ) in told("importance", "a", "narrow", "--data", "rows.jsonl")
    assert "there is no partition 'row'\n  -> choose one of layer, tensor, model" in told(
        "importance", "a", "b", "--data", "rows.jsonl", "--partition", "row"
    )


@pytest.mark.parametrize(
    "command",
    [("fisher",), ("gram",), ("gradient",), ("importance",), ("stats", "show"), ("stats", "add")],
    ids=" ".join,
)
def test_help_is_a_manual(command: tuple[str, ...], tmp_path: Path) -> None:
    told = run(tmp_path, *command, "--help").stdout
    assert "weft" in told.partition("Example")[2], "an example can be copied"
