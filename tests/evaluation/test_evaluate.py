"""The table: rows, shares, ensembles, what is known from earlier, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.cli.running import run
from tests.evaluation.models import SENTENCES, bert, jsonl, labelled, linear_head, llama, task
from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.data import examples
from weft.evaluation.evaluating import evaluate
from weft.evaluation.loading import load_task
from weft.evaluation.models import Device, open_model
from weft.evaluation.predicting import Asking, predict
from weft.evaluation.results import Results, load_results


def table(made: Path, *models: str, **options: Any) -> Results:
    given = {"data": made / "data", "heads": made / "heads", "experts": made / "experts", **options}
    return evaluate([made / name for name in models], made / "tasks", **given)


def probabilities(made: Path, model: Path, name: str) -> Any:
    file = made / "tasks" / f"{name}.yaml"
    asked = examples(load_task(file), "test", None, made / "data")
    return predict(open_model(model, Device()), asked, Asking(made / "heads"))


def test_rows_means_and_shares(made: Path) -> None:
    results = table(made, "base", "merged")
    assert [(row.name, row.role) for row in results.rows] == [
        ("base", "model"), ("merged", "model"), ("experts", "experts"),
    ]  # fmt: skip
    experts = results.rows[-1].scores
    for row in results.rows:
        scores = [row.scores[name] for name in ("colour", "size")]
        assert results.mean(row) == pytest.approx(sum(s.score for s in scores) / 2)
        shares = [s.score / experts[n].score for s, n in zip(scores, ("colour", "size"), strict=True)]
        assert [s.share for s in scores] == pytest.approx(shares)
        assert results.mean_share(row) == pytest.approx(sum(shares) / 2)
        assert all(s.metrics["accuracy"] == s.score and s.examples == 24 for s in scores)
    for name in ("colour", "size"):
        made_by = probabilities(made, made / "experts" / name, name)
        assert experts[name].score == pytest.approx(float((made_by.chosen == made_by.targets).mean()))


def test_an_ensemble_averages_the_experts_probabilities(made: Path) -> None:
    row = table(made, "base", ensemble=True).rows[-1]
    assert (row.name, row.role) == ("ensemble", "ensemble")
    for name in ("colour", "size"):
        several = [probabilities(made, made / "experts" / expert, name) for expert in ("colour", "size")]
        mean = np.mean([each.scores for each in several], axis=0)
        assert row.scores[name].score == pytest.approx(float((mean.argmax(1) == several[0].targets).mean()))


def test_an_ensemble_of_likelihoods_averages_what_they_make_likely(tmp_path: Path) -> None:
    """Of choices, and where one example has fewer than another."""
    rows = [
        {"question": f"w{k} w{2 * k}", "choices": [f"w{k + j}" for j in range(2 + k % 2)], "label": k % 2}
        for k in range(8)
    ]
    for k, name in enumerate(["one", "two"]):
        llama(tmp_path / "experts" / name, k)
        jsonl(tmp_path / "data/test.jsonl", rows)
        task(tmp_path / f"tasks/{name}.yaml", kind="multiple-choice", data={"folder": "../data"})
    results = evaluate([], tmp_path / "tasks", experts=tmp_path / "experts", ensemble=True)
    asked = examples(load_task(tmp_path / "tasks/one.yaml"), "test")
    chances = np.zeros((8, 3))
    for name in ("one", "two"):
        scores = predict(open_model(tmp_path / "experts" / name, Device()), asked, Asking()).scores
        chances += np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    right = float((chances.argmax(1) == [k % 2 for k in range(8)]).mean())
    assert [row.role for row in results.rows] == ["experts", "ensemble"]
    assert [score.score for score in results.rows[1].scores.values()] == [right, right]


def test_without_experts_nothing_is_told_of_shares(made: Path) -> None:
    results = table(made, "base", experts=None)
    assert [row.name for row in results.rows] == ["base"]
    assert results.mean_share(results.rows[0]) is None


def test_a_task_may_name_its_expert_and_head(made: Path, tmp_path: Path) -> None:
    parts = {"expert": str(made / "experts/size"), "head": str(made / "heads/size.safetensors")}
    file = task(tmp_path / "size.yaml", kind="classification", data={"folder": str(made / "data/size")}, **parts)
    results = evaluate([made / "merged"], file)
    assert results.rows[0].scores["size"].metrics == table(made, "merged").rows[0].scores["size"].metrics
    assert results.rows[1].role == "experts"
    assert results.rows[1].scores["size"].share == 1.0


# What is known already


def cached(results: Results) -> list[bool]:
    return [score.cached for row in results.rows for score in row.scores.values()]


def test_what_was_computed_once_is_known(made: Path) -> None:
    first, second = (table(made, "base", "merged", ensemble=True) for _ in range(2))
    assert not any(cached(first))
    assert all(cached(second))
    assert [r.scores[t].metrics for r in first.rows for t in r.scores] == [
        r.scores[t].metrics for r in second.rows for t in r.scores
    ]
    assert not any(cached(table(made, "base", "merged", ensemble=True, cache=False)))


def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def _weights(place: Path) -> None:
    tensors = load_file(place / "base/model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] += 1
    save_file(tensors, place / "base/model.safetensors", {"format": "pt"})


def _data(place: Path) -> None:
    labelled(place / "data/colour", 2)


def _head(place: Path) -> None:
    linear_head(place / "heads/colour.safetensors", 3, seed=99)


def _tokenizer(place: Path) -> None:
    file = place / "base/tokenizer.json"
    file.write_text(file.read_text().replace('"w1"', '"v1"'))


def _pooling(place: Path) -> None:
    task(place / "tasks/colour.yaml", kind="classification", data={"folder": "colour"}, pooling="cls")


@pytest.mark.parametrize("change", [_weights, _data, _head, _tokenizer, _pooling])
def test_what_changes_a_score_is_computed_anew(made: Path, tmp_path: Path, change: Any) -> None:
    place = copied(made, tmp_path)
    before = table(place, "base", experts=None)
    change(place)
    after = table(place, "base", experts=None)
    assert not before.rows[0].scores["colour"].cached
    assert not after.rows[0].scores["colour"].cached
    assert after.rows[0].scores["size"].cached == (change not in (_weights, _tokenizer))


def test_what_changes_no_score_is_known(made: Path, tmp_path: Path) -> None:
    place = copied(made, tmp_path)
    table(place, "base", experts=None)
    shutil.move(place / "base", place / "moved")
    shutil.move(place / "tasks/colour.yaml", place / "tasks/tint.yaml")
    shutil.move(place / "heads/colour.safetensors", place / "heads/tint.safetensors")
    scores = table(place, "moved", experts=None).rows[0].scores
    assert scores["size"].cached
    assert not scores["tint"].cached, "a head is known by name and content"


def test_other_code_knows_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(made, "base", experts=None)
    monkeypatch.setattr("weft.evaluation.evaluating.hash_of_code", lambda: "another")
    assert not any(cached(table(made, "base", experts=None)))


def test_a_damaged_entry_counts_as_nothing(made: Path, tmp_path: Path) -> None:
    first = table(made, "base", experts=None)
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("{")
    second = table(made, "base", experts=None)
    assert not any(cached(second))
    assert first.rows[0].scores == second.rows[0].scores


def test_half_a_table_is_not_lost(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at the second task, it goes on there."""
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr("weft.evaluation.evaluating.predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table(made, "base", experts=None)
    assert cached(table(made, "base", experts=None)) == [True, False]


# What does not fit


def test_all_that_can_be_known_early_is_told_at_once(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(
            [made / "none", made / "tasks/size.yaml"], made / "tasks", data=tmp_path, experts=made / "heads",
            heads=made / "heads",
        )  # fmt: skip
    assert [problem.what for problem in caught.value.problems] == [
        f"task colour: {tmp_path}/colour: no such folder",
        f"task size: {tmp_path}/size: no such folder",
        f"{made}/none: no such folder",
        f"{made}/tasks/size.yaml: is a file",
        f"task colour: there is no expert {made}/heads/colour",
    ]


MISUSES = [
    ({"split": "tset"}, "there is no split 'tset'\n  -> did you mean 'test'?"),
    ({"dtype": "float8"}, "models are not run in 'float8'\n  -> choose float32, bfloat16, float16"),
    ({"experts": None, "ensemble": True}, "an ensemble needs the experts, and none is known for colour, size"),
    ({"limit": 0}, "a limit or batch should be at least 1"),
]


@pytest.mark.parametrize(("options", "told"), MISUSES)
def test_options_that_mean_nothing(made: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        table(made, "base", **options)
    assert str(caught.value).startswith(told)


def test_a_folder_of_heads_without_the_task_s(made: Path, tmp_path: Path) -> None:
    linear_head(tmp_path / "heads/colour.safetensors", 3, 0)
    with pytest.raises(InputError, match=r"task size: there is no head .*size.safetensors\n  -> .* holds colour"):
        table(made, "base", heads=tmp_path / "heads")


def test_a_model_named_twice_and_two_of_one_name(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is named twice"):
        table(made, "base", "base")
    shutil.copytree(made / "merged", tmp_path / "base")
    given = {"data": made / "data", "heads": made / "heads"}
    rows = evaluate([made / "base", tmp_path / "base"], made / "tasks", **given).rows
    assert [row.name for row in rows] == [f"{made.name}/base", f"{tmp_path.name}/base"]


def test_a_folder_that_is_no_model(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights in it"):
        evaluate([tmp_path], made / "tasks", data=made / "data", heads=made / "heads")


# Results


def test_results_are_read_as_they_were_saved(made: Path, tmp_path: Path) -> None:
    results = table(made, "base", "merged", ensemble=True)
    results.save(tmp_path / "deep" / "results.json")
    again = load_results(tmp_path / "deep" / "results.json")
    assert json.dumps(again.as_json()) == json.dumps(results.as_json())
    told = json.loads((tmp_path / "deep/results.json").read_text())
    assert told["rows"][1]["mean"] == results.mean(results.rows[1])
    assert told["rows"][1]["mean_share"] == results.mean_share(results.rows[1])


def test_files_that_are_no_results(tmp_path: Path) -> None:
    for text, told in (("{", "not JSON"), ('{"rows": 1}', "not results"), ("[]", "not results")):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(InputError, match=told):
            load_results(tmp_path / "r.json")
    with pytest.raises(InputError, match="No such file"):
        load_results(tmp_path / "none.json")


def test_perplexities_have_no_mean_but_shares_have(tmp_path: Path) -> None:
    for k, name in enumerate(["m", "experts/text"]):
        llama(tmp_path / name, k)
    jsonl(tmp_path / "data/text/test.jsonl", [{"text": text} for text in SENTENCES])
    file = task(tmp_path / "text.yaml", kind="language-modelling", data={"folder": "data/text"})
    results = evaluate([tmp_path / "m"], file, experts=tmp_path / "experts")
    row, expert = results.rows
    assert results.mean(row) is None
    assert results.mean_share(row) == pytest.approx(expert.scores["text"].score / row.scores["text"].score)
    with pytest.raises(InputError, match=r"language modelling \(text\) has no ensemble"):
        evaluate([tmp_path / "m"], file, experts=tmp_path / "experts", ensemble=True)


# The command


def typed(made: Path, *arguments: str) -> Any:
    places = [f"--{name}={made / name}" for name in ("data", "heads", "experts")]
    return CliRunner().invoke(app, ["evaluate", str(made / "merged"), "-t", str(made / "tasks"), *places, *arguments])


def test_the_command_prints_a_table_and_writes_json(made: Path, tmp_path: Path) -> None:
    done = typed(made, "--ensemble", "-o", str(tmp_path / "r.json"))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    results = load_results(tmp_path / "r.json")
    assert lines[0].split() == ["colour", "size"]
    assert lines[1].split() == ["model", "accuracy", "accuracy", "mean", "of", "experts"]
    for line, row in zip(lines[2:], results.rows, strict=True):
        numbers = [row.scores["colour"].score, row.scores["size"].score, results.mean(row), results.mean_share(row)]
        assert line.split() == [row.name, *(f"{number:.4f}" for number in numbers)]


def test_the_command_s_json(made: Path) -> None:
    done = typed(made, "--json", "--limit", "3")
    told = json.loads(done.stdout)
    assert told["ok"]
    assert told["rows"][0]["scores"]["colour"]["examples"] == 3


def test_the_command_tells_problems(made: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(made / "merged")])
    assert done.exit_code == 2
    assert "no task is named" in done.output
    done = typed(made, "--split", "validation", "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)
    assert [problem["what"].split(": ")[0] for problem in told["problems"]] == ["task colour", "task size"]


@pytest.mark.slow
def test_the_command_as_a_person_types_it(made: Path, tmp_path: Path) -> None:
    done = run(
        made, "evaluate", "merged", "base", "-t", "tasks", "--data", "data", "--heads", "heads", "--experts", "experts",
        "-o", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert done.stdout.splitlines()[2].startswith("merged")
    assert "merged on colour: 24" in done.stderr


def test_merging_leaves_heads_alone_and_evaluation_puts_each_task_s_own_on(tmp_path: Path) -> None:
    """Experts with heads of different sizes in their checkpoints: the encoders are merged, the heads dropped."""
    import weft

    bert(tmp_path / "base", 0)
    sizes = {"colour": 3, "size": 2}
    for k, (name, classes) in enumerate(sizes.items()):
        bert(tmp_path / "experts" / name, k + 1, "BertForSequenceClassification", num_labels=classes)
        labelled(tmp_path / "data" / name, classes)
        head = {"expert": f"../experts/{name}", "head": f"../experts/{name}"}
        task(tmp_path / f"tasks/{name}.yaml", kind="classification", data={"folder": f"../data/{name}"}, **head)
    experts = [str(tmp_path / "experts" / name) for name in sizes]
    rules = [{"match": "classifier.*", "use": "drop"}]
    weft.merge_to({"method": "linear", "models": experts, "rules": rules}, tmp_path / "merged")
    results = evaluate([tmp_path / "merged"], tmp_path / "tasks")
    tensors = [load_file(Path(path) / "model.safetensors") for path in experts]
    for name, path, own in zip(sizes, experts, tensors, strict=True):
        mixed = {n: sum(t[n] for t in tensors) / 2 if not n.startswith("classifier") else own[n] for n in own}
        shutil.copytree(path, tmp_path / "by hand" / name)
        save_file(mixed, tmp_path / "by hand" / name / "model.safetensors", {"format": "pt"})
        by_hand = evaluate([tmp_path / "by hand" / name], tmp_path / f"tasks/{name}.yaml").rows[0].scores[name]
        assert results.rows[0].scores[name].metrics == by_hand.metrics
    assert [score.share for score in results.rows[1].scores.values()] == [1.0, 1.0]
