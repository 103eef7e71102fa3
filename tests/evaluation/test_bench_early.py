"""`weft bench`: mistakes are told before anything is fetched, and before anything is scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.evaluation import tiny_protocols as tiny
from tests.evaluation.models import jsonl
from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.protocols import running
from weft.evaluation.protocols.running import bench
from weft.evaluation.protocols.schema import Method

TASKS = {"colour": ["red", "blue"], "size": ["big", "small"]}


def never(*arguments: object, **options: object) -> None:
    raise AssertionError("too early")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A protocol of two tasks whose data hold names of classes."""
    base = tiny.roberta(tmp_path / "models/base", 0)
    for k, (name, labels) in enumerate(TASKS.items()):
        tiny.roberta(tmp_path / "models" / name, k + 1, 2, base)
        rows = [{"text": f"w{i} w{i + k}", "label": labels[i % 2]} for i in range(12)]
        jsonl(tmp_path / "data" / name / "test.jsonl", rows)
    protocol(tmp_path)
    return tmp_path


def protocol(place: Path, labels: dict[str, Any] = TASKS, **more: Any) -> Path:
    parts = {
        "title": "t", "family": "encoder", "kinds": ["roberta"], "base": {"hub": "org/base"},
        "experts": {name: {"hub": f"org/{name}"} for name in TASKS},
        "rules": [{"match": ["lm_head.*", "*.pooler.*"], "use": "base"}, {"match": "classifier.*", "use": "drop"}],
        "methods": {"average": {"method": "linear", "source": "here"}}, **more,
    }  # fmt: skip
    plain = {"kind": "classification", "data": {"hub": "org/data"}}
    return tiny.protocol(place / "mine.yaml", parts, {
        name: {**plain, **({"labels": labels[name]} if name in labels else {})} for name in TASKS
    })  # fmt: skip


def run(place: Path, **options: Any) -> Any:
    where = {name: place / name for name in ("models", "data", "work")}
    return bench(str(place / "mine.yaml"), device="cpu", **where, **options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "tis"], "there is no method 'tis'\n  -> did you mean 'ties'?"),
        (["-m", "ties", "-p", "densty=1"], "parameters: ties has no parameter 'densty'\n  -> did you mean 'density'?"),
        (["-m", "ties", "--before", "dear"], "did you mean 'dare'?"),
    ],
)
def test_methods_are_looked_at_first_of_all(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "locate", never)
    monkeypatch.setattr(running, "prepared", never)
    done = CliRunner().invoke(app, ["bench", "glue8", *arguments])
    assert done.exit_code == 2
    assert told in done.output


def test_of_several_methods_all_problems_are_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "locate", never)
    methods = {"one": Method(method="tis", source=""), "two": Method(method="ties", parameters={"x": 1}, source="")}
    with pytest.raises(InputError) as caught:
        run(place, methods=methods)
    assert [problem.what for problem in caught.value.problems] == [
        "one: there is no method 'tis'", "two: parameters: ties has no parameter 'x'",
    ]  # fmt: skip


def test_merges_are_planned_before_data_are_prepared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "prepared", never)
    monkeypatch.setattr(running, "evaluate", never)
    held = load_file(place / "models/size/model.safetensors")
    name = next(name for name in held if name.endswith("1.attention.self.query.weight"))
    held[name] = held[name][:, :3].contiguous()
    save_file(held, place / "models/size/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=re.escape(name)):
        run(place)


def test_names_of_classes_go_into_the_task_s_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol(place, {"colour": TASKS["colour"]})
    monkeypatch.setattr(running, "evaluate", never)
    with pytest.raises(InputError, match=r"task size: .*'big'\n  -> name the classes .*`labels: \[\.\.\.\]`"):
        run(place)
    monkeypatch.undo()
    protocol(place)
    monkeypatch.setenv("WEFT_CACHE", str(place / "cache"))
    named = run(place)
    for name, labels in TASKS.items():
        rows = [{**row, "label": labels.index(row["label"])} for row in tiny.read(place / f"data/{name}/test.jsonl")]
        jsonl(place / f"data/{name}/test.jsonl", rows)
    protocol(place, {})
    numbered = run(place)
    assert [row.name for row in named.rows] == ["models/base", "average", "experts"]
    for one, other in zip(named.rows, numbered.rows, strict=True):
        assert {n: s.metrics for n, s in one.scores.items()} == {n: s.metrics for n, s in other.scores.items()}


def test_experts_with_other_names_of_tensors_are_renamed(place: Path) -> None:
    """The base as the encoder alone, the experts as models around it."""
    base = place / "models/base"
    held = load_file(base / "model.safetensors")
    bare = {name.removeprefix("roberta."): value for name, value in held.items() if name.startswith("roberta.")}
    save_file(bare, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "architectures": ["RobertaModel"]}))
    with pytest.raises(InputError, match="share no tensor name"):
        run(place)
    rules = [{"match": "classifier.*", "use": "drop"}]
    protocol(place, rules=rules, rename={"roberta.": ""})
    merged = load_file(Path(run(place, experts=False).rows[1].path) / "model.safetensors")
    experts = [load_file(place / "models" / name / "model.safetensors") for name in TASKS]
    assert merged.keys() == bare.keys()
    for name, value in merged.items():
        mean = sum(expert[f"roberta.{name}"].double() for expert in experts) / 2
        assert (value.double() - mean).abs().max() < 1e-6
