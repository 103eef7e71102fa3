"""Tasks as files: what they may say, and what a person is told who slips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.models import jsonl, labelled, task
from weft.errors import InputError
from weft.evaluation.data import examples
from weft.evaluation.loading import load_task, load_tasks, make_task
from weft.evaluation.schema import KINDS, Classification

PLAIN: dict[str, Any] = {"name": "x", "kind": "classification", "data": {"folder": "d"}}

SLIPS = [
    ({"kind": "clasification"}, "kind 'clasification' is unknown\n  -> did you mean 'classification'?"),
    ({"kind": None}, "kind is missing\n  -> the kinds are classification, regression, language-modelling, "
                     "multiple-choice, image-classification"),
    (
        {"metric": "pearson"},
        "metric 'pearson' does not fit classification\n  -> it has accuracy, macro_f1, matthews, f1, accuracy_and_f1",
    ),
    ({"metric": "acuracy"}, "metric 'acuracy' is no metric of classification\n  -> did you mean 'accuracy'?"),
    ({"columns": {"txt": "sentence"}}, "columns: classification has no part 'txt'\n  -> did you mean 'text'?"),
    ({"columns": {"label": ["a", "b"]}}, "columns: label should be one column\n  -> ['text'] may be two"),
    ({"data": {}}, "data should name either a `folder` or a data set on the `hub`\n  -> see docs/evaluate.md"),
    ({"data": {"folder": "d", "hubb": "x"}}, "unknown key 'data.hubb'\n  -> did you mean 'hub'?"),
    ({"pooling": "max"}, "pooling should be 'mean', 'cls', 'pooler' or 'projection'\n  -> see docs/evaluate.md"),
    ({"longest": 0}, "longest should be more than 0\n  -> see docs/evaluate.md"),
    ({"heads": "x"}, "unknown key 'heads'\n  -> did you mean 'head'?"),
]  # fmt: skip


@pytest.mark.parametrize(("slip", "told"), SLIPS)
def test_a_slip_in_a_task_is_told_with_its_remedy(slip: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        make_task({**PLAIN, **slip})
    assert str(caught.value) == told


def test_problems_of_all_tasks_are_told_at_once(tmp_path: Path) -> None:
    task(tmp_path / "a.yaml", kind="classification", data={"folder": "d"}, metric="pearson")
    task(tmp_path / "b.yaml", kind="regresion", data={"folder": "d"})
    with pytest.raises(InputError) as caught:
        load_tasks([tmp_path])
    assert [problem.what.split(": ", 1)[1] for problem in caught.value.problems] == [
        "metric 'pearson' does not fit classification",
        "kind 'regresion' is unknown",
    ]


def test_a_task_is_named_by_its_file_and_its_paths_begin_there(tmp_path: Path) -> None:
    file = task(tmp_path / "deep" / "colour.yaml", kind="classification", data={"folder": "d"}, head="h.safetensors")
    made = load_task(file)
    assert isinstance(made, Classification)
    assert made.name == "colour"
    assert made.head is not None
    assert made.located(made.head) == tmp_path / "deep" / "h.safetensors"
    assert made.counted == "accuracy"


def test_a_folder_is_all_its_tasks_and_an_empty_one_is_told(tmp_path: Path) -> None:
    for name in "ba":
        task(tmp_path / "t" / f"{name}.yaml", kind="regression", data={"folder": "d"})
    assert [made.name for made in load_tasks([tmp_path / "t"])] == ["a", "b"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: holds no task"):
        load_tasks([tmp_path / "none"])


def test_two_tasks_of_one_name_are_told(tmp_path: Path) -> None:
    files = [task(tmp_path / k / "a.yaml", kind="regression", data={"folder": "d"}) for k in "xy"]
    with pytest.raises(InputError, match="two tasks are called 'a'"):
        load_tasks(files)


def test_files_that_are_no_task_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file[^\n]*\n  -> did you mean 'colour.yaml'"):
        (tmp_path / "colour.yaml").write_text("[1")
        load_task(tmp_path / "color.yaml")
    with pytest.raises(InputError, match="not valid YAML"):
        load_task(tmp_path / "colour.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InputError, match="a task is a map"):
        load_task(tmp_path / "list.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"kind: \xe9")
    with pytest.raises(InputError, match="not text in UTF-8"):
        load_task(tmp_path / "latin.yaml")


def test_a_task_s_slip_of_syntax_is_told_as_a_recipe_s_is(tmp_path: Path) -> None:
    from weft.evaluation.protocols.catalogue import load_protocol
    from weft.recipes.loading import load_recipe

    file = tmp_path / "x.yaml"
    (tmp_path / "y.yaml").mkdir()
    for load, kind in ((load_task, "task"), (load_recipe, "recipe"), (load_protocol, "protocol")):
        file.write_text("kind: [a\nb: 1\n")
        with pytest.raises(InputError, match=r"x\.yaml: not valid YAML: line 2, column 2: expected ',' or '\]'"):
            load(str(file))
        file.write_bytes(b"kind: \xe9")
        with pytest.raises(InputError, match="not text in UTF-8: byte 6 is 0xe9\n  -> save it as UTF-8"):
            load(str(file))
        with pytest.raises(InputError, match=f"Is a directory\n  -> name the {kind}'s file in it"):
            load(str(tmp_path / "y.yaml"))


def test_every_kind_names_its_parts() -> None:
    for name, schema in KINDS.items():
        assert schema.model_validate({"name": "x", "kind": name, "data": {"hub": "a/b"}}).usual


# Data


def read(folder: Path, split: str = "test", **parts: Any) -> Any:
    return examples(make_task({**PLAIN, "data": {"folder": str(folder)}, **parts}), split)


def test_all_file_formats_hold_the_same_examples(tmp_path: Path) -> None:
    import json

    import pyarrow
    import pyarrow.parquet

    rows = [{"text": "a, b", "label": 1}, {"text": 'say "c"', "label": 0}]
    jsonl(tmp_path / "jsonl" / "test.jsonl", rows)
    for kind in ("json", "csv", "parquet"):
        (tmp_path / kind).mkdir()
    (tmp_path / "json" / "test.json").write_text(json.dumps(rows))
    (tmp_path / "csv" / "test.csv").write_text('text,label\n"a, b",1\n"say ""c""",0\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "parquet" / "test.parquet")
    found = [read(tmp_path / kind) for kind in ("jsonl", "json", "csv", "parquet")]
    assert [list(each.rows) for each in found] == [rows] * 4
    assert len({each.digest for each in found}) == 1


def test_other_examples_have_another_digest(tmp_path: Path) -> None:
    for k, name in enumerate(["a", "b"]):
        jsonl(tmp_path / name / "test.jsonl", [{"text": "x", "label": k}])
    assert read(tmp_path / "a").digest != read(tmp_path / "b").digest


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands in for the Hub, as `datasets` allows; the split has another name there."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    jsonl(tmp_path / "set" / "train.jsonl", [{"text": "a", "label": 0}])
    jsonl(tmp_path / "set" / "test.jsonl", [{"text": "b", "label": 1}, {"text": "c", "label": 0}])
    data = {"hub": str(tmp_path / "set"), "splits": {"validation": "test"}}
    found = examples(make_task({**PLAIN, "data": data}), "validation")
    assert list(found.rows) == [{"text": "b", "label": 1}, {"text": "c", "label": 0}]
    with pytest.raises(InputError, match=r"task x: data set .*Unknown split"):
        examples(make_task({**PLAIN, "data": {"hub": str(tmp_path / "set"), "splits": {"test": "tset"}}}), "test")


def test_an_empty_split_is_told(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [])
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"task x: {tmp_path}/test.jsonl: the split 'test' is empty\n"
        "  -> choose another one with --split, or mend the data"
    )


def test_a_missing_split_or_folder_is_told(tmp_path: Path) -> None:
    labelled(tmp_path, 2, "dev")
    with pytest.raises(InputError) as caught:
        read(tmp_path, "validation")
    assert str(caught.value) == f"task x: {tmp_path} has no split 'validation'\n  -> there are dev"
    assert len(read(tmp_path, "validation", data={"folder": str(tmp_path), "splits": {"validation": "dev"}})) == 24
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "none")


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    labelled(tmp_path, 2)
    with pytest.raises(InputError) as caught:
        read(tmp_path, columns={"text": "texts"}).texts("text")
    assert str(caught.value) == (
        f"task x: {tmp_path}/test.jsonl: example 1 has no column 'texts'\n  -> did you mean 'text'?"
    )


def test_what_is_no_text_or_no_number_is_told(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": 1.5}, {"text": None, "label": "much"}])
    with pytest.raises(InputError, match="text of example 2 is None, not text"):
        read(tmp_path).texts("text")
    with pytest.raises(InputError, match="label of example 2 is 'much', not a number"):
        read(tmp_path, kind="regression").numbers("label")


LABELS = [
    (7, {}, "the label of example 2 is 7, but the head tells 3 classes apart\n  -> name the head of this task"),
    (1.0, {}, "the label of example 2 is 1.0, but the head tells 3 classes apart\n  -> name the head of this task"),
    (-1, {}, "the label of example 2 is -1: the examples of this split have no labels\n"
             "  -> choose another one with --split"),
    ("red", {}, "the label of example 2 is 'red'\n  -> name the classes in the head's order: `labels: [...]`"),
    ("rde", {"labels": ["red", "green", "blue"]}, "the label of example 2 is 'rde'\n  -> did you mean 'red'?"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "parts", "told"), LABELS)
def test_labels_that_do_not_match_the_head_are_told(
    tmp_path: Path, label: Any, parts: dict[str, Any], told: str
) -> None:
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": label}])
    with pytest.raises(InputError) as caught:
        read(tmp_path, **parts).classes(3)
    assert str(caught.value) == f"task x: {tmp_path}/test.jsonl: {told}"


def test_names_of_labels_are_places_in_the_head(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "blue"}, {"text": "b", "label": "red"}])
    assert read(tmp_path, labels=["red", "blue"]).classes(2) == [1, 0]
    with pytest.raises(InputError, match="2 labels, but the head tells 3 classes apart"):
        read(tmp_path, labels=["red", "blue"]).classes(3)


def test_broken_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "a"\n')
    with pytest.raises(InputError, match=r"test.jsonl cannot be read"):
        read(tmp_path)
    (tmp_path / "test.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"example 1 is \[1\], not a map from columns to values"):
        read(tmp_path)


def test_a_text_may_hold_what_unicode_calls_the_end_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        '{"text": "a\u2028b", "label": 0}\n\n{"text": "c\x85d", "label": 1}\n', "utf-8"
    )
    assert read(tmp_path).texts("text") == ["a\u2028b", "c\x85d"]


def test_a_table_with_texts_that_look_like_numbers(tmp_path: Path) -> None:
    """And with the mark that spreadsheets put before a table."""
    (tmp_path / "test.csv").write_text("text,more,label\n2012,007,0\nnan,8,1\n", "utf-8-sig")
    found = read(tmp_path)
    assert found.texts("text") == ["2012", "nan"]
    assert found.classes(2) == [0, 1]
    assert read(tmp_path, columns={"text": ["text", "more"]}).texts("text") == [("2012", "007"), ("nan", "8")]


def test_a_table_with_too_many_cells_is_told(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\na,0\nb, c,1\n")
    with pytest.raises(InputError, match="example 2 has more cells than the first line has names"):
        read(tmp_path)
    (tmp_path / "test.csv").write_text("text,label\n" + "a" * 200_000 + ",0\n")
    with pytest.raises(InputError, match="cannot be read: field larger than field limit"):
        read(tmp_path)
