"""The published protocols, run on tiny models in the place of theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

import weft
from tests.evaluation import tiny_protocols as tiny
from tests.evaluation.models import jsonl
from tests.evaluation.test_protocols import ELEVEN, GLUE, ROWS, SEVEN
from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.protocols.catalogue import load_protocol
from weft.evaluation.protocols.running import bench
from weft.evaluation.protocols.schema import Method, ZeroShotTask
from weft.evaluation.results import Results, load_results

pytestmark = pytest.mark.slow

TIES = {"ties": Method(method="ties", parameters={"density": 0.4}, source="here")}
VISION = ["eurosat", "svhn", "mnist"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protocols")


@pytest.fixture(scope="module")
def vision(place: Path) -> Path:
    known = load_protocol("vision8")
    base = tiny.clip(place / "vision" / "models" / "base", 0)
    for k, task in enumerate(known.tasks):
        assert isinstance(task, ZeroShotTask)
        tiny.clip_expert(place / "vision" / "models" / task.name, base, k + 1)
        tiny.images(place / "vision" / "data" / task.name, len(task.classes), 24)
    return place / "vision"


@pytest.fixture(scope="module")
def results(vision: Path) -> Results:
    where = {"models": vision / "models", "data": vision / "data", "work": vision / "work"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(vision / "cache"))
        return bench("vision8", TIES, device="cpu", **where)


def slow_accuracy(vision: Path, task: ZeroShotTask, encoder: Mapping[str, torch.Tensor]) -> float:
    """As FusionBench scores: transformers alone, one image at a time, in double precision."""
    base = vision / "models" / "base"
    model = transformers.CLIPModel.from_pretrained(base).eval()
    state = model.state_dict()
    model.load_state_dict(
        {**state, **{name: value for name, value in encoder.items() if name.startswith("vision_model.")}}
    )
    model.double()
    tokenize, process = (
        transformers.AutoTokenizer.from_pretrained(base),
        transformers.CLIPImageProcessor.from_pretrained(base),
    )
    rows = tiny.read(vision / "data" / task.name / "test.jsonl")
    classes = []
    with torch.no_grad():
        for name in task.classes:
            each = []
            for template in task.templates:
                ids = tokenize(template.replace("{}", name), truncation=True, max_length=40, return_tensors="pt")[
                    "input_ids"
                ]
                made = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0]
                each.append(made / made.norm())
            mean = torch.stack(each).mean(0)
            classes.append(mean / mean.norm())
        right = 0
        for row in rows:
            from PIL import Image

            image = Image.open(vision / "data" / task.name / row["image"]).convert("RGB")
            pixels = process(images=[image], return_tensors="pt")["pixel_values"].double()
            made = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)[0]
            right += int((torch.stack(classes) @ made).argmax()) == row["label"]
    return right / len(rows)


def test_vision_is_scored_as_a_slow_reference_scores(vision: Path, results: Results) -> None:
    assert [row.name for row in results.rows] == ["models/base", "ties", "experts"]
    assert [row.role for row in results.rows] == ["model", "model", "experts"]
    scored = [row.scores[name].score for row in results.rows for name in VISION]
    assert len(set(scored)) > 2
    for name in VISION:
        task = load_protocol("vision8").task(name)
        assert isinstance(task, ZeroShotTask)
        base = load_file(vision / "models" / "base" / "model.safetensors")
        expert = load_file(vision / "models" / name / "model.safetensors")
        merged = load_file(Path(results.rows[1].path) / "model.safetensors")
        for row, encoder in zip(results.rows, (base, merged, expert), strict=True):
            assert row.scores[name].score == pytest.approx(slow_accuracy(vision, task, encoder)), (row.name, name)


def test_the_merge_is_what_weft_merge_makes_of_the_image_encoders(
    vision: Path, results: Results, tmp_path: Path
) -> None:
    def encoder(path: Path) -> dict[str, torch.Tensor]:
        held = load_file(path / "model.safetensors")
        return {name: value for name, value in held.items() if name.startswith("vision_model.")}

    experts = [encoder(vision / "models" / task.name) for task in load_protocol("vision8").tasks]
    wanted = weft.merge(experts, base=encoder(vision / "models" / "base"), method="ties", density=0.4)
    made = load_file(Path(results.rows[1].path) / "model.safetensors")
    assert all(torch.equal(made[name], torch.as_tensor(value)) for name, value in wanted.items())
    base = load_file(vision / "models" / "base" / "model.safetensors")
    rest = base.keys() - wanted.keys()
    assert "logit_scale" in rest
    assert all(torch.equal(made[name], base[name]) for name in rest)


def test_shares_and_published_rows_come_along(results: Results, tmp_path: Path) -> None:
    merged, experts = results.rows[1], results.rows[2]
    for name, score in merged.scores.items():
        best = experts.scores[name].score
        assert score.share == (pytest.approx(score.score / best) if best else None)
    told = {(row["method"], row["mark"], row["mean"]) for row in results.facts["published"] if row.get("mean")}
    assert {("TIES", "log", 72.2), ("EMR", "EMR-txt", 88.7)} <= told
    results.save(tmp_path / "r.json")
    assert load_results(tmp_path / "r.json").rows == results.rows


def test_the_command_prints_both_and_does_nothing_twice(
    vision: Path, results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(vision / "cache"))
    monkeypatch.setattr("weft.evaluation.protocols.running.merge_to", None)
    where = [f"--{name}={vision / name}" for name in ("models", "data", "work")]
    asked = ["bench", "vision8", "-m", "ties", "-p", "density=0.4", *where, "-q", "-o", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, [*asked, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    ours = next(line for line in lines if line.startswith("ties "))
    assert "FusionBench  measured here" in ours
    wanted = [f"{100 * results.rows[1].scores[task.name].score:.1f}" for task in results.tasks]
    assert ours.split()[1:9] == wanted
    assert any(
        re.match(r"TIES \(scale 0.3\) +72.2 +FusionBench +FusionBench repository, docs \[log\]", line) for line in lines
    )
    pcb = next(line for line in lines if line.startswith("PCB "))
    assert pcb.split()[1:10] == ["66.7", "65.5", "78.5", "79.3", "86.4", "77.1", "98.2", "59.1", "76.3"]
    assert "Rows of other checkpoints than ours are no target" in done.stdout
    assert "unconfirmed: " in done.stdout
    saved = json.loads((tmp_path / "r.json").read_text())
    assert all(score["cached"] for row in saved["rows"] for score in row["scores"].values())


def test_a_part_of_a_protocol_and_drawn_examples(vision: Path) -> None:
    where: dict[str, Any] = {"models": vision / "models", "data": vision / "data", "work": vision / "work"}
    made = bench("vision8", TIES, tasks=["mnist", "eurosat"], examples=5, experts=False, device="cpu", **where)
    assert [task.name for task in made.tasks] == ["eurosat", "mnist"]
    assert {score.examples for row in made.rows for score in row.scores.values()} == {5}
    assert made.facts["examples"] == 5
    assert all(row["mean"] is None for row in made.facts["published"])  # of eight tasks, and not of two
    prepared = sorted((vision / "work" / "data").glob("mnist-*"), key=lambda path: path.stat().st_mtime)[-1]
    drawn = [row["image"] for row in tiny.read(prepared / "test.jsonl")]
    assert drawn != [f"images/{k:06d}.png" for k in range(5)]
    assert drawn == sorted(drawn)


def test_recipes_of_ones_own(vision: Path, tmp_path: Path) -> None:
    where = [f"--{name}={vision / name}" for name in ("models", "data", "work")]
    asked = ["bench", "vision8", *where, "-q", "--device", "cpu", "-t", "mnist", "-t", "dtd", "--no-experts", "--json"]
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("method: task_arithmetic\nparameters: {scale: 0.1}\nbefore: {method: dare, drop: 0.5}\n")
    done = CliRunner().invoke(app, [*asked, "-r", str(recipe)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["rows"][1]
    assert (told["name"], told["facts"]["parameters"]) == ("mine", {"scale": 0.1})
    recipe.write_text("method: ties\nmodels: [a]\n")
    done = CliRunner().invoke(app, [*asked, "-r", str(recipe)])
    assert done.exit_code == 2
    assert "models has no place in a protocol" in json.loads(done.stdout)["problems"][0]["what"]


def test_glue_uses_each_experts_head_and_its_metric(place: Path) -> None:
    models, data = place / "glue" / "models", place / "glue" / "data"
    base = tiny.roberta(models / "base", 0)
    for k, name in enumerate(GLUE):
        tiny.roberta(models / name, k + 1, {"stsb": 1, "mnli": 3}.get(name, 2), base)
        split = "validation_matched" if name == "mnli" else "validation"
        rows = [
            {**row, "question1": f"w{k}", "question2": "w5", "hypothesis": "w9 w4"}
            | {"premise": row["sentence1"], "question": row["sentence2"]}
            for k, row in enumerate(tiny.words(14))
        ]
        rows = [{**row, "label": 0.5 * k} if name == "stsb" else row for k, row in enumerate(rows)]
        jsonl(data / name / f"{split}.jsonl", rows)
    made = bench("glue8", TIES, models=models, data=data, work=place / "glue" / "work", device="cpu")
    metrics = {task.name: task.metric for task in made.tasks}
    assert metrics["cola"] == "matthews"
    assert metrics["stsb"] == "pearson_and_spearman"
    merged, experts = made.rows[1], made.rows[2]
    stsb = merged.scores["stsb"]
    assert stsb.score == pytest.approx((stsb.metrics["pearson"] + stsb.metrics["spearman"]) / 2)
    told = {name: _asked_by_transformers(models / name, data / name, name) for name in GLUE}
    assert {name: score.metrics.get("accuracy") for name, score in experts.scores.items() if name != "stsb"} == {
        name: pytest.approx(value) for name, value in told.items() if name != "stsb"
    }
    assert not any(name.startswith("classifier") for name in load_file(Path(merged.path) / "model.safetensors"))


def _asked_by_transformers(model: Path, data: Path, name: str) -> float:
    loaded = transformers.RobertaForSequenceClassification.from_pretrained(model).eval()
    tokenize = transformers.AutoTokenizer.from_pretrained(model)
    columns = load_protocol("glue8").task(name).columns["text"]
    columns = (columns,) if isinstance(columns, str) else columns
    rows = tiny.read(next(data.glob("*.jsonl")))
    with torch.no_grad():
        chosen = [
            int(loaded(**tokenize(*(row[c] for c in columns), return_tensors="pt")).logits.argmax()) for row in rows
        ]
    return float(np.mean([k == row["label"] for k, row in zip(chosen, rows, strict=True)]))


def test_t5_ranks_answers(place: Path) -> None:
    models, data = place / "t5" / "models", place / "t5" / "data"
    base = tiny.t5(models / "base", 0)
    for k, name in enumerate(SEVEN):
        tiny.t5(models / name, k + 1, base)
        split = load_protocol("t5-base").task(name).data.splits.get("test", "test")
        jsonl(data / name / f"{split}.jsonl", [_asked(name, k) for k in range(40)])
    made = bench("t5-base", TIES, models=models, data=data, work=place / "t5" / "work", device="cpu")
    assert {name: score.examples for name, score in made.rows[0].scores.items()} == {
        "paws": 40, "quartz": 40, "wiki_qa": 40, "qasc": 8, "story_cloze": 8, "winogrande": 8, "wsc": 8,
    }  # fmt: skip
    found = made.rows[2].scores["winogrande"].score
    assert found == pytest.approx(_ranked(models / "winogrande", place / "t5" / "work"))
    assert "published" in made.facts


def _asked(name: str, k: int) -> dict[str, Any]:
    row = dict(ROWS[name])
    first = next(column for column, value in row.items() if isinstance(value, str))
    return {
        **row,
        first: f"{row[first]} {'abcdefgh'[k % 8] * (k % 5)}",
        **({"option1": "xyz"[: k % 3 + 1] * 2} if "option1" in row else {}),
    }


def _ranked(model: Path, work: Path) -> float:
    """Each answer's likelihood, one at a time."""
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(model).eval().double()
    tokenize = transformers.AutoTokenizer.from_pretrained(model)
    rows = tiny.read(next((work / "data").glob("winogrande-*/1/test.jsonl")))
    right = []
    for row in rows:
        asked = tokenize(row["question"], return_tensors="pt")["input_ids"][:, -128:]
        scores = []
        for choice in row["choices"]:
            labels = tokenize(choice, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                scores.append(-float(loaded(input_ids=asked, labels=labels).loss) * labels.shape[1])
        right.append(int(np.argmax(scores)) == row["label"])
    return fmean(right)


def test_ia3_merges_vectors_and_takes_the_median_over_prompts(place: Path) -> None:
    models, data, work = (place / "ia3" / name for name in ("models", "data", "work"))
    base = tiny.t5(models / "base", 0)
    two = ["copa", "h-swag"]
    for k, name in enumerate(two):
        tiny.vectors(models / f"{name}{('.pt', '.safetensors')[k]}", base, k + 1)
        jsonl(data / name / "validation.jsonl", [_asked(name, k) for k in range(44)])
    made = bench("ia3", TIES, tasks=two, models=models, data=data, work=work, device="cpu")
    merged = made.rows[1]
    vectors = [torch.load(models / "copa.pt"), load_file(models / "h-swag.safetensors")]
    ones = {name: torch.ones_like(value) for name, value in vectors[0].items()}
    wanted = weft.merge(vectors, base=ones, method="ties", density=0.4)
    held, whole = load_file(base / "model.safetensors"), load_file(Path(merged.path) / "model.safetensors")
    for name, value in wanted.items():
        weight = name.removeprefix("transformer.").replace("ia3_vector", "weight")
        assert torch.allclose(whole[weight], held[weight] * torch.as_tensor(value)[:, None])
    folders = sorted((work / "data").glob("h-swag-*/*/"), key=lambda path: int(path.name))
    assert len(folders) == 7
    each = weft_scores(merged.path, folders)
    assert merged.scores["h-swag"].score == pytest.approx(median(each))
    assert len(ELEVEN) == 11


def weft_scores(model: str, folders: list[Path]) -> list[float]:
    from weft.evaluation.evaluating import evaluate
    from weft.evaluation.loading import make_task

    tasks = [make_task({"kind": "multiple-choice", "name": path.name, "data": {"folder": path}}) for path in folders]
    return [score.score for score in evaluate([model], tasks, device="cpu").rows[0].scores.values()]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tasks": ["minst"]}, "vision8 has no task 'minst'\n  -> did you mean 'mnist'?"),
        ({"models": "nowhere"}, "no such folder\n  -> it should hold base and a folder for each task"),
        ({"methods": {"x": Method(method="tyes", source="")}}, "tyes"),
    ],
)
def test_what_does_not_fit(vision: Path, options: dict[str, Any], told: str) -> None:
    where: dict[str, Any] = {"models": vision / "models", "data": vision / "data", "work": vision / "work"}
    with pytest.raises(InputError, match=re.escape(told)):
        bench("vision8", **{"device": "cpu", "experts": False, **where, **options})


def test_a_model_of_another_architecture(vision: Path, tmp_path: Path) -> None:
    for name in ("base", "dtd"):
        (tmp_path / name).symlink_to(vision / "models" / name)
    tiny.roberta(tmp_path / "mnist", 0)
    with pytest.raises(
        InputError, match=re.escape("is a model of the kind 'roberta'; vision8 merges clip or clip_vision_model")
    ):
        bench(
            "vision8", tasks=["mnist", "dtd"], models=tmp_path, data=vision / "data", work=tmp_path / "w", device="cpu"
        )


def test_data_without_the_column(vision: Path, tmp_path: Path) -> None:
    tiny.images(tmp_path / "mnist", 10)
    rows = [{"image": row["image"], "digit": row["label"]} for row in tiny.read(tmp_path / "mnist" / "test.jsonl")]
    jsonl(tmp_path / "mnist" / "test.jsonl", rows)
    with pytest.raises(InputError, match="has no column 'label'; it has image, digit\n  -> rename the column"):
        bench("vision8", tasks=["mnist"], models=vision / "models", data=tmp_path, work=tmp_path / "w", device="cpu")
