"""What was computed once is known, unless something changed that decides it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.evaluation.models import labelled, linear_head, task
from tests.evaluation.test_evaluate import table
from weft.evaluation import caching
from weft.evaluation.predicting import predict
from weft.evaluation.results import Results


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


def test_all_that_predicts_is_code_that_counts() -> None:
    """Whatever modules of the evaluation the predictions, metrics and means are made by."""
    folder, found = Path(caching.__file__).parent, set()
    waiting = ["predicting", "metrics", "ensembling"]
    while waiting:
        name = waiting.pop()
        found.add(name)
        text = (folder / f"{name}.py").read_text()
        waiting += [other for other in re.findall(r"weft\.evaluation\.(\w+) import", text) if other not in found]
    assert found == {*caching._CODE}


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spm.model", "tokenizer.model", "bpe.codes"])
def test_files_of_tokenizers_are_part_of_a_model(made: Path, tmp_path: Path, name: str) -> None:
    place = copied(made, tmp_path) / "base"
    (place / name).write_bytes(b"one")
    before = caching.hash_of_model(place)
    (place / name).write_bytes(b"two")
    assert caching.hash_of_model(place) != before


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
