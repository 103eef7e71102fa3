"""Mistakes are told before a model is loaded, all together; and what is wrong with one model stops no other."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.evaluation.models import bert, jsonl, labelled, linear_head, task
from weft.cli.app import app
from weft.engine.progress import Progress
from weft.errors import InputError
from weft.evaluation import evaluating, harness
from weft.evaluation.evaluating import evaluate
from weft.evaluation.loading import make_task
from weft.evaluation.results import load_results


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "300"})


def never(*arguments: object) -> None:
    raise AssertionError("a model was loaded")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "open_model", never)


# The output


@pytest.mark.usefixtures("unloaded")
def test_the_task_s_own_file_is_no_place_for_results(made: Path, tmp_path: Path) -> None:
    labelled(tmp_path / "data/size", 2)
    file = task(tmp_path / "size.yaml", kind="classification", data={"folder": "data/size"})
    before = file.read_text()
    done = typed(made / "merged", "-t", file, "--heads", made / "heads", "-o", file)
    assert done.exit_code == 2
    assert f"the output {file} is an input" in done.output
    assert file.read_text() == before


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("notes.txt", "exists and is not a file of results"),
        ("none/r.json", "none: no such folder"),
        ("deep", "is not a file"),
    ],
)
def test_results_go_where_they_harm_nothing(made: Path, tmp_path: Path, output: str, told: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "deep").mkdir()
    done = typed(made / "merged", "-t", made / "tasks", "-o", tmp_path / output)
    assert done.exit_code == 2
    assert told in done.output
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "notes.txt"]
    done = CliRunner().invoke(app, ["bench", "glue8", "-o", str(tmp_path / output)])
    assert done.exit_code == 2
    assert told in done.output


def test_results_replace_results_and_other_files_on_request(made: Path, tmp_path: Path) -> None:
    asked = (made / "merged", "-t", made / "tasks", "--data", made / "data", "--heads", made / "heads", "-q", "-o")
    for _ in range(2):
        assert typed(*asked, tmp_path / "r.json").exit_code == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert typed(*asked, tmp_path / "notes.txt", "--overwrite").exit_code == 0
    assert load_results(tmp_path / "notes.txt").rows[0].name == "merged"


# Tasks


def folders(place: Path, rows: list[dict[str, Any]], **parts: Any) -> Path:
    jsonl(place / "d/test.jsonl", rows)
    return task(place / "t.yaml", **{"kind": "classification", "data": {"folder": "d"}, **parts})


@pytest.mark.usefixtures("unloaded")
def test_what_is_wrong_with_several_tasks_is_told_together(made: Path, tmp_path: Path) -> None:
    texts = [{"text": "w1", "label": 0}, {"text": "w2", "label": 1}]
    head = {"head": str(made / "heads/size.safetensors")}
    wide = {"head": str(linear_head(tmp_path / "wide.safetensors", 2, 0, width=24))}
    tasks = [
        folders(tmp_path / "a", [*texts, {"text": "w3", "label": 2}], name="a", **head),
        folders(tmp_path / "b", [{"words": "w1", "label": 0}], name="b", **head),
        folders(tmp_path / "c", [{"text": "w1", "label": "red"}], name="c", **head),
        folders(tmp_path / "e", texts, name="e", **wide),
        folders(tmp_path / "f", texts, name="f"),
        folders(tmp_path / "g", texts, name="g", head="none.safetensors"),
        folders(tmp_path / "h", texts, name="h", labels=["x", "y", "z"], **head),
        folders(tmp_path / "i", texts, name="i", kind="regression", **head),
        folders(tmp_path / "j", [{"question": "w", "choices": ["w1"], "label": 0}], name="j", kind="multiple-choice"),
    ]
    with pytest.raises(InputError) as caught:
        evaluate([made / "base"], tasks)
    assert [(problem.what.replace(str(tmp_path), "").replace(str(made), ""), problem.remedy) for problem in
            caught.value.problems] == [
        ("task a: /a/d/test.jsonl: the label of example 3 is 2, but the head tells 2 classes apart",
         "name the head of this task"),
        ("task b: /b/d/test.jsonl: example 1 has no column 'text'",
         "it has words, label; say which is which in `columns`"),
        ("task c: /c/d/test.jsonl: the label of example 1 is 'red'",
         "name the classes in the head's order: `labels: [...]`"),
        ("task e: the head /wide.safetensors reads 24 numbers, the model /base gives 16",
         "name a head that was trained on this encoder"),
        ("task f: /base is a BertModel without a head for the task",
         "name the head in the task's file (`head:`), or give --heads"),
        ("task g: there is no head /g/none.safetensors", "mend `head:`, or give --heads"),
        ("task h: 3 labels, but the head tells 2 classes apart",
         "give the labels' names in the head's order, or name the right head"),
        ("task i: the head tells 2 classes apart; regression needs one number",
         "choose `kind: classification`, or name the task's head"),
        ("task j: /j/d/test.jsonl: the choices of example 1 are ['w1']",
         "they should be a list of two texts or more"),
    ]  # fmt: skip


@pytest.mark.usefixtures("unloaded")
def test_labels_are_compared_with_the_heads_of_models(tmp_path: Path) -> None:
    names = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
    bert(tmp_path / "three", 0, "BertForSequenceClassification", **names)
    bert(tmp_path / "two", 0, "BertForSequenceClassification")
    file = folders(tmp_path, [{"text": "w1", "label": "yes"}, {"text": "w2", "label": "nay"}])
    with pytest.raises(InputError) as caught:
        evaluate([tmp_path / "three", tmp_path / "two"], file)
    assert [(problem.what.partition("example ")[2], problem.remedy) for problem in caught.value.problems] == [
        ("2 is 'nay'", "the labels are no, maybe, yes"),
        ("1 is 'yes'", "name the classes in the head's order: `labels: [...]`"),
    ]


def test_folders_and_names_are_looked_at_before_torch_is_imported(made: Path, tmp_path: Path) -> None:
    def code(models: list[str]) -> str:
        return (
            "import sys\nfrom weft.errors import InputError\nfrom weft.evaluation.evaluating import evaluate\n"
            f"try: evaluate({models!r}, {str(made / 'tasks')!r}, data={str(made / 'data')!r},"
            f" heads={str(made / 'heads')!r})\n"
            "except InputError as error: print(error.problems[0].what, 'torch' in sys.modules)"
        )

    base, none = str(made / "base"), str(tmp_path / "none")
    told = {}
    for key, models in {"twice": [base, base], "none": [base, none]}.items():
        done = subprocess.run([sys.executable, "-c", code(models)], capture_output=True, text=True, check=True)
        told[key] = done.stdout.strip()
    assert told == {"twice": f"{base} is named twice False", "none": f"{none}: no such folder False"}


def test_keys_of_the_data_are_told_where_they_belong() -> None:
    plain = {"name": "x", "kind": "classification", "data": {"folder": "d"}}
    with pytest.raises(
        InputError, match=re.escape("unknown key 'splits'\n  -> write it in `data:`, as `data: {splits:")
    ):
        make_task({**plain, "splits": {"test": "dev"}})
    with pytest.raises(InputError) as caught:
        make_task({**plain, "q": 1})
    assert "place" not in str(caught.value)
    assert "known: kind, name, data" in str(caught.value)


def test_a_broken_line_is_told_by_its_number(tmp_path: Path) -> None:
    file = folders(tmp_path, [{"text": "w", "label": 0}] * 6)
    lines = (tmp_path / "d/test.jsonl").read_text().splitlines()
    lines[2], lines[4] = "", lines[4][:-1] + ", }"
    (tmp_path / "d/test.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"d/test\.jsonl cannot be read: line 5, column \d+: \w+"):
        evaluate([], file)


# Scores that are no numbers


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(made / "base", tmp_path / "broken")
    held = load_file(tmp_path / "broken/model.safetensors")
    held["embeddings.word_embeddings.weight"][:] = torch.nan
    save_file(held, tmp_path / "broken/model.safetensors", {"format": "pt"})
    return tmp_path / "broken"


def test_a_model_whose_scores_are_not_finite_stops_no_other(made: Path, broken: Path, tmp_path: Path) -> None:
    places = [f"--{name}={made / name}" for name in ("data", "heads", "experts")]
    asked = [broken, made / "merged", "-t", made / "tasks", *places, "-q"]
    done = typed(*asked, "-o", tmp_path / "r.json")
    assert done.exit_code == 1, done.output
    row = next(line for line in done.stdout.splitlines() if line.startswith("broken"))
    assert row.split() == ["broken", *["not", "finite"] * 2]
    assert f"error: {broken}: on task colour its scores of example 1 are not finite" in done.stderr
    saved = load_results(tmp_path / "r.json")
    assert [(row.name, sorted(row.scores)) for row in saved.rows] == [
        ("broken", []), ("merged", ["colour", "size"]), ("experts", ["colour", "size"]),
    ]  # fmt: skip
    assert sorted(saved.rows[0].facts["failed"]) == ["colour", "size"]
    assert saved.mean(saved.rows[0]) is None
    done = typed(*asked, "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], len(told["problems"])) == (1, False, 2)
    assert told["rows"][1]["scores"]["size"]["score"] == saved.rows[1].scores["size"].score


def test_an_ensemble_with_a_broken_expert_has_no_score(made: Path, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts/colour").symlink_to(broken)
    (tmp_path / "experts/size").symlink_to(made / "experts/size")
    results = evaluate([], made / "tasks", data=made / "data", heads=made / "heads", experts=tmp_path / "experts",
                       ensemble=True)  # fmt: skip
    assert [sorted(row.scores) for row in results.rows] == [["size"], []]
    assert len(results.failures()) == 2  # each told once


# Ensembles and what is known


class Phases(Progress):
    def __init__(self) -> None:
        self.names: list[str] = []

    def phase(self, name: str, total: int) -> None:
        self.names.append(name)


def test_an_ensemble_counts_each_model_once(made: Path, tmp_path: Path) -> None:
    """Three tasks, of which two have one expert: the mean of two models, and not of three."""
    import numpy as np

    from weft.evaluation.data import examples
    from weft.evaluation.loading import load_task
    from weft.evaluation.models import Device, open_model
    from weft.evaluation.predicting import Asking, predict

    (tmp_path / "again").symlink_to(made / "experts/colour")
    parts = {"kind": "classification", "data": {"folder": str(made / "data/colour")}}
    parts |= {"head": str(made / "heads/colour.safetensors")}
    experts = {"one": made / "experts/colour", "two": tmp_path / "again", "three": made / "experts/size"}
    files = [task(tmp_path / f"{name}.yaml", **parts, expert=str(path)) for name, path in experts.items()]
    progress = Phases()
    row = evaluate([], files, ensemble=True, progress=progress, cache=False).rows[-1]
    told = [name for name in progress.names if name.startswith("ensemble: ")]
    assert len(told) == 2 * 3
    asked = examples(load_task(files[0]), "test")
    each = [predict(open_model(experts[name], Device()), asked, Asking()) for name in ("one", "three")]
    means = [each[0].scores + each[1].scores, 2 * each[0].scores + each[1].scores]
    right = [float((mean.argmax(1) == each[0].targets).mean()) for mean in means]
    assert not np.array_equal(means[0].argmax(1), means[1].argmax(1))
    assert right[0] == row.scores["one"].score


def test_the_table_says_how_many_scores_were_known(made: Path) -> None:
    asked = ("-t", made / "tasks", "--data", made / "data", "--heads", made / "heads", "-q")
    assert "were known" not in typed(made / "merged", *asked).stdout
    done = typed(made / "merged", made / "base", *asked)
    assert done.stdout.splitlines()[-1] == (
        "2 of 4 scores were known from an earlier run; --no-cache computes them anew."
    )
    assert "were known" not in typed(made / "merged", *asked, "--no-cache").stdout


# Other people's harness


@pytest.mark.parametrize("answers", [None, False])
def test_a_hub_that_gives_no_answer_is_told_in_seconds(answers: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, or taken and never answered."""
    hub, datasets = pytest.importorskip("huggingface_hub"), pytest.importorskip("datasets")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if answers is not None:
            taken.listen()
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(harness, "_PATIENCE", 0.5)
        hub.close_session() if hasattr(hub, "close_session") else None
        with pytest.raises(InputError, match=r"--lm-eval arc_easy: http://127.0.0.1:\d+ cannot be reached: ") as caught:
            harness.check_reachable(["arc_easy"])
        assert "set HF_HUB_OFFLINE=1 if the data are in the cache" in str(caught.value)
        harness.check_reachable([])
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        harness.check_reachable(["arc_easy"])


def test_no_network_is_told_in_a_process_of_its_own() -> None:
    """Where nobody has imported the parts of huggingface_hub yet."""
    if find_spec("lm_eval") is None:
        pytest.skip("needs lm_eval")
    code = (
        "from weft.errors import InputError\nfrom weft.evaluation.harness import Harness\n"
        "try: Harness(['arc_easy'])\nexcept InputError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("--lm-eval arc_easy: http://127.0.0.1:9 cannot be reached: ")


def test_a_hub_that_refuses_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hub_server import HubServer

    hub, datasets = pytest.importorskip("huggingface_hub"), pytest.importorskip("datasets")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with HubServer().running() as server:
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.url)
        harness.check_reachable(["arc_easy"])


def test_models_are_looked_at_before_the_harness_reads_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "Harness", never)
    done = typed(tmp_path / "none", "--lm-eval", "arc_easy")
    assert done.exit_code == 2
    assert f"{tmp_path}/none: no such folder" in done.output
