"""lm-evaluation-harness on a tiny model, with a task and data that lie here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.models import jsonl, llama
from weft.errors import InputError
from weft.evaluation.data import examples
from weft.evaluation.evaluating import evaluate
from weft.evaluation.harness import with_harness
from weft.evaluation.loading import make_task
from weft.evaluation.metrics import measured
from weft.evaluation.models import Device, open_model
from weft.evaluation.predicting import Asking, predict

pytestmark = pytest.mark.slow
pytest.importorskip("lm_eval")

ROWS = [
    {"question": f"w{k} w{k + 9}", "choices": [f"w{k}", f"w{k + 20}", f"w{k + 30}"], "label": k % 3} for k in range(12)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    llama(tmp_path / "m", 0)
    jsonl(tmp_path / "data/test.jsonl", ROWS)
    (tmp_path / "local.yaml").write_text(
        f"task: weft_local\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data/test.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_target: label\n"
        "doc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
    )
    return tmp_path


def test_the_harness_and_our_own_likelihoods_agree(place: Path) -> None:
    results = with_harness(None, [place / "m"], [str(place / "local.yaml")], device="cpu", batch=4)
    assert [(task.name, task.kind, task.metric, task.falls) for task in results.tasks] == [
        ("weft_local", "lm-eval", "acc", False)
    ]
    score = results.rows[0].scores["weft_local"]
    ours = make_task({"name": "x", "kind": "multiple-choice", "data": {"folder": str(place / "data")}})
    made = predict(open_model(place / "m", Device()), examples(ours, "test"), Asking())
    assert score.score == pytest.approx(measured("multiple-choice", made)["accuracy"])
    assert score.examples == 12


def test_its_tasks_stand_beside_ours(place: Path) -> None:
    ours = make_task({"name": "x", "kind": "multiple-choice", "data": {"folder": str(place / "data")}})
    before = evaluate([place / "m"], [ours], cache=False)
    both = with_harness(before, [place / "m"], [str(place / "local.yaml")], device="cpu", limit=5)
    assert [task.name for task in both.tasks] == ["x", "weft_local"]
    assert both.rows[0].scores["weft_local"].examples == 5
    assert both.mean(both.rows[0]) is not None


def test_tasks_that_it_does_not_know(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for task, told in (("weft_locla", "knows no such task"), (f"{place}/none.yaml", "no such file")):
        with pytest.raises(InputError, match=told):
            with_harness(None, [place / "m"], [task], device="cpu")
    (place / "nameless.yaml").write_text("dataset_path: json\n")
    with pytest.raises(InputError, match="names no `task`"):
        with_harness(None, [place / "m"], [f"{place}/nameless.yaml"], device="cpu")


def test_what_fails_within_it_is_told(place: Path) -> None:
    (place / "data/test.jsonl").unlink()
    with pytest.raises(InputError, match="lm-evaluation-harness failed"):
        with_harness(None, [place / "m"], [str(place / "local.yaml")], device="cpu")


@pytest.mark.parametrize(("aggregated", "names"), [(True, ["weft_all"]), (False, ["weft_local", "weft_other"])])
def test_a_group_is_told_once(place: Path, aggregated: bool, names: list[str]) -> None:
    """By its own number if it has one, else by those of its tasks: a mean would count tasks twice."""
    (place / "other.yaml").write_text((place / "local.yaml").read_text().replace("weft_local", "weft_other"))
    more = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n" if aggregated else ""
    (place / "all.yaml").write_text(f"group: weft_all\ntask: [weft_local, weft_other]\n{more}")
    results = with_harness(None, [place / "m"], [str(place / "all.yaml")], device="cpu")
    assert [task.name for task in results.tasks] == names
    assert [score.examples for score in results.rows[0].scores.values()] == [24 if aggregated else 12] * len(names)
