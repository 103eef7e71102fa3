"""Protocols whose checkpoints come from a Hub, and images from a data set in the Hub's layout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.evaluation import tiny_protocols as tiny
from tests.evaluation.models import jsonl
from tests.hub_server import HubServer
from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.protocols.catalogue import load_protocol
from weft.evaluation.protocols.preparing import Preparation, prepared
from weft.evaluation.protocols.running import bench
from weft.evaluation.protocols.schema import Protocol


def weft(folder: Path, server: HubServer, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
        "WEFT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "weft", "bench", *arguments, "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done


SPARSE = {"kind": "zero-shot", "classes": ["red", "blue", "green"], "templates": ["a {}."]}


def dataset(folder: Path, names: list[str], column: str = "label") -> Path:
    """As the Hub keeps images: Parquet that knows the names of its classes."""
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(len(names))
    pictures = [Image.fromarray(rng.integers(0, 255, (11, 9, 3), dtype=np.uint8)) for _ in range(12)]
    kinds = datasets.Features({"image": datasets.Image(), column: datasets.ClassLabel(names=names)})
    rows = {"image": pictures, column: [k % len(names) for k in range(12)]}
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, kinds).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def clip_protocol(place: Path, data: Path, task: dict[str, Any]) -> Path:
    parts = {
        "title": "t", "family": "clip", "kinds": ["clip", "clip_vision_model"], "base": {"hub": "org/base"},
        "experts": {"paint": {"hub": "org/expert"}},
        "rules": [{"match": ["text_model.*", "*_projection.*", "logit_scale"], "use": "base"}],
        "methods": {"average": {"method": "linear", "source": "here"}},
    }  # fmt: skip
    return tiny.protocol(place / "mine.yaml", parts, {"paint": {**SPARSE, "data": {"hub": str(data)}, **task}})


@pytest.mark.slow
def test_from_the_hub_to_the_table(tmp_path: Path) -> None:
    base = tiny.clip(tmp_path / "files" / "base", 0)
    clip_protocol(tmp_path, dataset(tmp_path / "paint", ["red", "blue", "green"]), {})
    with HubServer().running() as server:
        server.add("org/base", base)
        server.add("org/expert", tiny.clip_expert(tmp_path / "files" / "expert", base, 1))
        done = weft(tmp_path, server, "mine.yaml", "--json", "--examples", "10")
        assert "preprocessor_config.json" in server.fetched("org/base")
    told = json.loads(done.stdout)
    assert [row["name"] for row in told["rows"]] == ["org/base", "average", "experts"]
    assert told["rows"][1]["scores"] == told["rows"][2]["scores"] | {
        "paint": told["rows"][2]["scores"]["paint"] | {"cached": told["rows"][1]["scores"]["paint"]["cached"]}
    }  # the average of one expert
    assert told["rows"][0]["scores"]["paint"]["examples"] == 10


@pytest.mark.slow
def test_experts_in_folders_of_one_repository(tmp_path: Path) -> None:
    base = tiny.roberta(tmp_path / "files" / "base", 0)
    for k, name in enumerate("ab"):
        tiny.roberta(tmp_path / "files" / "many" / name / "best", k + 1, 2, base)
    (tmp_path / "files" / "many" / "a" / "best" / "optimizer.pt").write_bytes(b"0" * 99)
    parts = {
        "title": "t", "family": "encoder", "kinds": ["roberta"], "base": {"hub": "org/base"},
        "experts": {name: {"hub": "org/many", "folder": f"{name}/best"} for name in "ab"},
        "rules": [{"match": "lm_head.*", "use": "base"}, {"match": "classifier.*", "use": "drop"}],
        "methods": {"ties": {"method": "ties", "source": "here"}},
    }  # fmt: skip
    task = {"kind": "classification", "data": {"hub": "org/none"}, "columns": {"text": "sentence"}}
    tiny.protocol(tmp_path / "two.yaml", parts, {"a": task, "b": task})
    for name in "ab":
        jsonl(tmp_path / "data" / name / "test.jsonl", tiny.words(9))
    with HubServer().running() as server:
        server.add("org/base", base)
        server.add("org/many", tmp_path / "files" / "many")
        done = weft(tmp_path, server, "two.yaml", "--json", "--data", "data")
        assert "a/best/optimizer.pt" not in server.fetched("org/many")
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["org/base", "ties", "experts"]
    with HubServer().running() as server:
        server.add("org/base", base)
        done = weft(tmp_path / "files", server, "../two.yaml", "-q", code=2)
    told = " ".join(done.stderr.split())
    assert "a: org/many" in told
    assert "put copies of them into DIR/a, and give --models DIR" in told


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clip(tmp_path_factory.mktemp("clip") / "base", 0)


def preparation(protocol: Protocol, work: Path, base: Path) -> Preparation:
    return Preparation(protocol, work, base)


def test_images_are_cut_once_and_kept(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    known = load_protocol(str(clip_protocol(tmp_path, dataset(tmp_path / "d", ["red", "blue", "green"]), {})))
    (made,) = prepared(known.tasks[0], preparation(known, tmp_path / "work", base))
    assert made.data.folder is not None
    rows = tiny.read(made.data.folder / "test.jsonl")
    assert [row["label"] for row in rows] == [k % 3 for k in range(12)]
    with Image.open(made.data.folder / rows[3]["image"]) as image:
        assert image.size == (tiny.SIZE, tiny.SIZE)
    other = shutil.copytree(base, tmp_path / "other")
    file = other / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_center_crop": False}))
    (cut,) = prepared(known.tasks[0], preparation(known, tmp_path / "work", other))
    assert cut.data.folder != made.data.folder
    monkeypatch.setattr("weft.evaluation.protocols.preparing._cut", None)
    (again,) = prepared(known.tasks[0], preparation(known, tmp_path / "work", base))
    assert again == made


@pytest.mark.parametrize(
    ("names", "column", "told"),
    [
        (["red", "blue"], "label", "has 2 classes, the task names 3\n  -> name every class once"),
        (["red", "green", "blue"], "label", "has 'green' as class 1, the task as class 2\n  -> bring `classes`"),
        (["red", "blue", "green"], "colour", "has no column 'label'; it has image, colour\n  -> rename the column"),
    ],
)
def test_data_sets_with_other_classes_or_columns(
    tmp_path: Path, base: Path, names: list[str], column: str, told: str
) -> None:
    known = load_protocol(str(clip_protocol(tmp_path, dataset(tmp_path / "d", names, column), {})))
    with pytest.raises(InputError, match=re.escape(told)):
        prepared(known.tasks[0], preparation(known, tmp_path / "work", base))


def test_names_that_the_prompts_put_otherwise_are_no_mistake(tmp_path: Path, base: Path) -> None:
    data = dataset(tmp_path / "d", ["Red_", "azure", "green"])
    known = load_protocol(str(clip_protocol(tmp_path, data, {})))
    assert prepared(known.tasks[0], preparation(known, tmp_path / "work", base))


def test_a_data_set_that_cannot_be_had(tmp_path: Path, base: Path) -> None:
    known = load_protocol(str(clip_protocol(tmp_path, Path("/nowhere/at/all"), {})))
    with pytest.raises(InputError, match=re.escape("; or put a copy into DIR/paint/test.jsonl and give --data DIR")):
        prepared(known.tasks[0], preparation(known, tmp_path / "work", base))


def test_validation_and_test_are_drawn_as_ties_merging_draws_them() -> None:
    from random import Random

    from weft.evaluation.protocols.preparing import _chosen

    known = load_protocol("t5-base")
    order = list(range(100))
    Random(42).shuffle(order)
    made = {
        split: _chosen(known.task("qasc"), Preparation(known.model_copy(update={"split": split}), Path(), Path()), 100)
        for split in ("validation", "test")
    }
    assert made == {"validation": sorted(order[:32]), "test": sorted(order[32:])}
    few = _chosen(known.task("qasc"), Preparation(known, Path(), Path()), 20)
    assert len(few) == 10
    assert _chosen(known.task("paws"), Preparation(known, Path(), Path()), 5) == [0, 1, 2, 3, 4]


def test_without_a_network_everything_that_is_missing_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "vision8", "-t", "mnist", "-t", "dtd", "--work", str(tmp_path)])
    assert done.exit_code == 2
    told = " ".join(done.stderr.split())
    wanted = "openai/clip-vit-base-patch32, tanganke/clip-vit-base-patch32_mnist, tanganke/clip-vit-base-patch32_dtd"
    assert f"vision8 needs {wanted}: openai/clip-vit-base-patch32: " in told
    assert "or put copies of them into DIR/base, DIR/mnist and 1 more, and give --models DIR" in told


def test_a_folder_of_a_repository_without_a_network(tmp_path: Path) -> None:
    tiny.roberta(tmp_path / "models" / "base", 0)
    with pytest.raises(InputError, match=re.escape("glue8 needs vanillaOVO/roberta_base_glue_ckpts: ")):
        bench("glue8", tasks=["cola"], models=tmp_path / "models", work=tmp_path / "work", device="cpu")


def test_what_no_hub_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the Hub does not have the models of paws, qasc, quartz") as told:
        bench("t5-large", work=tmp_path, device="cpu")
    assert "no public download is known" in str(told.value)
    assert "put copies of them into DIR/paws, DIR/qasc and 5 more, and give --models DIR" in str(told.value)


def test_story_cloze_is_not_free(tmp_path: Path) -> None:
    base = tiny.t5(tmp_path / "models" / "base", 0)
    tiny.t5(tmp_path / "models" / "story_cloze", 1, base)
    told = r"no Hub has its data: StoryCloze 2016 must be asked for .*\n  -> put it into DIR/story_cloze/test"
    with pytest.raises(InputError, match=told):
        bench("t5-base", tasks=["story_cloze"], models=tmp_path / "models", work=tmp_path / "w", device="cpu")
