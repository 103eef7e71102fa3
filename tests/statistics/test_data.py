"""Rows of data: every kind of file gives the same; what is wrong is told with the file and the column."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.statistics.models import jsonl, texts
from weft.errors import InputError
from weft.statistics.data import Columns, opened, with_columns
from weft.statistics.loading import TASKS

datasets = pytest.importorskip("datasets")
ROWS = [{"text": 'a, "b"', "label": 1}, {"text": "None", "label": 0}, {"text": "ü\nc", "label": 2}]
CLASSIFY = TASKS["sequence-classification"]
NONE = Columns()


def read(source: Path | str, split: str | None = None, examples: int | None = None) -> list[dict[str, Any]]:
    with opened(str(source), split, examples) as rows:
        return [dict(row) for row in rows]


def failing(source: Path | str, split: str | None = None, examples: int | None = None) -> str:
    with pytest.raises(InputError) as caught, opened(str(source), split, examples):
        pass
    return str(caught.value)


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return jsonl(path, ROWS)
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        path = folder / "saved"
        made = datasets.Dataset.from_list(ROWS)
        (made if kind == "folder" else datasets.DatasetDict({"test": made})).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "folder", "dict"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert read(written(tmp_path, kind)) == ROWS


def test_some_examples_are_spread_over_all(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "sorted.jsonl", [{"n": k} for k in range(10)])
    assert [row["n"] for row in read(path, examples=4)] == [0, 2, 5, 7]
    assert len(read(path, examples=99)) == 10
    assert "--examples 0: that is no example" in failing(path, examples=0)


def test_nothing_is_left_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    read(texts(tmp_path / "rows.jsonl"))
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    texts(tmp_path / "train.jsonl")
    told = failing(tmp_path / "tran.jsonl")
    assert f"{tmp_path / 'tran.jsonl'}: no such file or folder" in told
    assert "did you mean 'train.jsonl'?" in told


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert f"{tmp_path / 'empty.jsonl'}: is empty" in failing(tmp_path / "empty.jsonl")
    (tmp_path / "header.csv").write_text("text,label\n")
    assert f"{tmp_path / 'header.csv'}: has no rows" in failing(tmp_path / "header.csv")


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b" "label": 1}\n')
    told = failing(path)
    assert f"{path}: cannot be read as .jsonl: JSON parse error" in told
    assert "row 1" in told


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a")
    assert "rows are read from .jsonl, .json, .csv" in failing(tmp_path / "notes.txt")


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "is no folder that `save_to_disk` wrote" in failing(tmp_path / "folder")


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "nobody/nothing: no such file or folder, and the Hub did not give" in failing("nobody/nothing")


def test_splits(tmp_path: Path) -> None:
    one, two = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:1])
    datasets.DatasetDict({"train": one, "validation": two}).save_to_disk(str(tmp_path / "both"))
    datasets.DatasetDict({"a": one, "b": two}).save_to_disk(str(tmp_path / "ab"))
    assert len(read(tmp_path / "both")) == 3
    assert len(read(tmp_path / "both", "validation")) == 1
    assert "has no split 'test'" in failing(tmp_path / "both", "test")
    assert "choose one with --split: a, b" in failing(tmp_path / "ab")
    assert "--split test is for data sets that have splits" in failing(texts(tmp_path / "x.jsonl"), "test")


def table(columns: list[str], asked: Columns = NONE, task: str = "sequence-classification", **options: Any) -> Any:
    rows = datasets.Dataset.from_dict({name: ["x"] for name in columns})
    return with_columns(rows, "rows.csv", asked, TASKS[task], needs_label=False, **options)


def test_columns_are_guessed_and_told() -> None:
    made = table(["id", "sentence", "label"])
    assert made.columns == Columns(text="sentence")
    assert made.remarks == ("column 'sentence' is taken for the text (--text to choose another)",)
    assert table(["premise", "hypothesis", "label"]).columns == Columns(text="premise", text_pair="hypothesis")
    assert table(["sentence1", "sentence2"], task="causal-lm").columns == Columns(text="sentence1")
    assert table(["unheard-of"]).columns == Columns(text="unheard-of"), "the only column of text"
    assert table(["document", "summary"], task="seq2seq-lm").columns == Columns(text="document", target="summary")


def test_columns_that_were_named_are_taken() -> None:
    made = table(["text", "body", "label"], Columns(text="body"))
    assert (made.columns, made.remarks) == (Columns(text="body"), ())


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(InputError) as caught:
        table(["text", "label"], Columns(text="txt", label="class"))
    told = str(caught.value)
    assert "rows.csv: has no column 'txt' (--text)" in told
    assert "did you mean 'text'? there are: text, label" in told
    assert "rows.csv: has no column 'class' (--label)" in told


def test_a_column_that_cannot_be_guessed() -> None:
    with pytest.raises(InputError, match="which column is the text") as caught:
        table(["one", "two"])
    assert "name the column with --text; there are: one, two" in str(caught.value)
    rows = datasets.Dataset.from_dict({"text": ["x"], "verdict": [1]})
    with pytest.raises(InputError, match="which column is the label"):
        with_columns(rows, "rows.csv", Columns(), CLASSIFY, needs_label=True)


def test_datasets_are_named_if_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from weft.statistics import loading

    def absent(name: str) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return SimpleNamespace()

    monkeypatch.setattr(loading, "import_module", absent)
    told = failing(texts(tmp_path / "x.jsonl"))
    assert "measuring a model needs datasets, which is not installed" in told
    assert 'pip install "weft[data]"' in told
