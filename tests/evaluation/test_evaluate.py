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


def test_copies_of_a_model_are_together_what_it_is(tmp_path: Path) -> None:
    """By length as well, which likelihoods on another scale would change."""
    rows = [
        {"question": f"w{k}", "choices": [f"w{k + 3}", f"w{k} w{k + 1} w{k + 2} w{k + 9}"], "label": k % 2}
        for k in range(20)
    ]
    jsonl(tmp_path / "data/test.jsonl", rows)
    llama(tmp_path / "expert", 0)
    parts = {"kind": "multiple-choice", "data": {"folder": "data"}, "expert": "expert"}
    files = [task(tmp_path / f"{name}.yaml", **parts) for name in ("one", "two")]
    expert, ensemble = evaluate([], files, ensemble=True).rows
    asked = examples(load_task(files[0]), "test")
    made = predict(open_model(tmp_path / "expert", Device()), asked, Asking())
    whole = np.log(np.exp(made.scores).sum(1, keepdims=True))
    assert (((made.scores - whole) / made.sizes).argmax(1) != (made.scores / made.sizes).argmax(1)).any()
    assert ensemble.scores["one"].metrics == expert.scores["one"].metrics


def test_an_ensemble_asks_every_expert_with_the_head_that_knows_the_classes(tmp_path: Path) -> None:
    """Where tasks name no head, an expert's own says nothing of another's classes."""
    for k, name in enumerate(["one", "two"]):
        bert(tmp_path / "experts" / name, k, "BertForSequenceClassification", num_labels=2 + k)
        labelled(tmp_path / name, 2 + k)
        task(tmp_path / f"tasks/{name}.yaml", kind="classification", data={"folder": f"../{name}"})
    _, row = evaluate([], tmp_path / "tasks", experts=tmp_path / "experts", ensemble=True).rows
    for name in ("one", "two"):
        asked = load_task(tmp_path / f"tasks/{name}.yaml").model_copy(update={"head": tmp_path / "experts" / name})
        several = [
            predict(open_model(tmp_path / "experts" / expert, Device()), examples(asked, "test"), Asking())
            for expert in ("one", "two")
        ]
        mean = np.mean([each.scores for each in several], axis=0)
        assert row.scores[name].score == pytest.approx(float((mean.argmax(1) == several[0].targets).mean()))


def test_experts_of_some_tasks_are_told_of_these(made: Path, tmp_path: Path) -> None:
    parts = {"kind": "classification"}
    for name, more in (("colour", {}), ("size", {"expert": str(made / "experts/size")})):
        task(tmp_path / f"{name}.yaml", **parts, data={"folder": str(made / "data" / name)}, **more)
    results = evaluate([made / "base"], tmp_path, heads=made / "heads")
    base, experts = results.rows
    assert list(experts.scores) == ["size"]
    assert base.scores["colour"].share is None
    assert base.scores["size"].share == pytest.approx(base.scores["size"].score / experts.scores["size"].score)
    assert results.mean_share(base) is None


def test_two_tasks_of_one_name_are_refused_however_they_come(made: Path) -> None:
    one = load_task(made / "tasks/size.yaml")
    with pytest.raises(InputError, match="two tasks are called 'size'"):
        evaluate([made / "base"], [one, made / "tasks"], data=made / "data", heads=made / "heads")


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
