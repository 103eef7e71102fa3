"""Rows of a task's data: from files in a folder, or from a data set on the Hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed, shown
from weft.evaluation.metrics import EXTRA
from weft.evaluation.pictures import Picture
from weft.evaluation.schema import ImageClassification, Task

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """What was read.

    Attributes:
        where: how to call it in messages.
        rows: one for each example.
        names: of the classes, in order, if the data tell.
    """

    where: str
    rows: Sequence[Row]
    names: tuple[str, ...] = ()


_TEXT = "utf-8-sig"
"""UTF-8; spreadsheets put a mark before it."""


def from_folder(task: Task, split: str, root: Path | None) -> Rows:
    """The rows in the file of a split.

    Args:
        task: whose.
        split: as the data call it.
        root: the folder that the task's folder is in; its file's, if not given.

    Raises:
        InputError: if there is no such file, or it cannot be read.
    """
    folder = _folder_of(task, root)
    found = [folder / f"{split}{suffix}" for suffix in _READERS if (folder / f"{split}{suffix}").is_file()]
    if not folder.is_dir():
        raise InputError(f"task {task.name}: {folder}: no such folder", "mend `data: {folder: ...}`, or give --data")
    if not found:
        there = [file.stem for file in folder.iterdir() if file.suffix in _READERS]
        remedy = f"there are {listed(sorted(there))}" if there else f"a split is a file {split}.jsonl there"
        raise InputError(f"task {task.name}: {folder} has no split {split!r}", remedy)
    try:
        rows = _READERS[found[0].suffix](found[0], task)
    except (OSError, ValueError, csv.Error) as error:
        what = " ".join(str(error).split())
        raise InputError(f"task {task.name}: {found[0]} cannot be read: {what}", "mend the file") from None
    if isinstance(task, ImageClassification):
        rows = [_with_picture(task, row, folder) for row in rows]
    return Rows(str(found[0]), rows)


def _folder_of(task: Task, root: Path | None) -> Path:
    assert task.data.folder is not None
    return task.located(task.data.folder) if root is None else root / task.data.folder.expanduser()


def _jsonl(file: Path, task: Task) -> list[Row]:
    with file.open(encoding=_TEXT) as lines:  # a text may hold what Unicode calls the end of a line
        return [_row(_parsed(line, k), k) for k, line in enumerate(lines) if line.strip()]


def _parsed(line: str, k: int) -> Any:
    """One line of many: the parser knows only where in it the fault is."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {k + 1}, column {error.colno}: {error.msg}") from None


def _json(file: Path, task: Task) -> list[Row]:
    parsed = json.loads(file.read_text(_TEXT))
    if not isinstance(parsed, list):
        raise ValueError("it is no list of examples")
    return [_row(item, k) for k, item in enumerate(parsed)]


def _row(parsed: Any, k: int) -> Row:
    if not isinstance(parsed, dict):
        raise ValueError(f"example {k + 1} is {shown(parsed)}, not a map from columns to values")
    return parsed


def _csv(file: Path, task: Task) -> list[Row]:
    """Cells that look like numbers are numbers, but not where the task reads text."""
    texts = {name for part in task.usual if part != "label" for name in task.column(part)}
    with file.open(encoding=_TEXT, newline="") as lines:
        rows = list(csv.DictReader(lines))
    for k, row in enumerate(rows):
        if None in row:
            raise ValueError(f"example {k + 1} has more cells than the first line has names")
    return [{name: cell if name in texts else _value(cell) for name, cell in row.items()} for row in rows]


def _value(text: Any) -> Any:
    """A cell as a number if it looks like one."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text


def _parquet(file: Path, task: Task) -> list[Row]:
    try:
        rows: list[Row] = import_module("pyarrow.parquet").read_table(file).to_pylist()
    except ImportError:
        raise InputError(f"{file}: reading Parquet needs pyarrow, which is not installed", EXTRA) from None
    return rows


_READERS: Mapping[str, Callable[[Path, Task], list[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _with_picture(task: Task, row: Row, folder: Path) -> Row:
    """The row with the picture in the place of its file's name, or of the bytes that `datasets` keeps of it."""
    column = task.column("image")[0]
    named = row.get(column)
    held = {"path": str(folder / named)} if isinstance(named, str) else named
    if not isinstance(held, Mapping):
        return row
    where = f"task {task.name}: {held.get('path') or folder}"
    if held.get("bytes") is None and not Path(held.get("path") or "").is_file():
        raise InputError(f"{where}: no such file", "mend the column that names it")
    return {**row, column: Picture(where, lambda: held)}


def from_hub(task: Task, split: str) -> Rows:
    """The rows of a split of a data set.

    Args:
        task: whose.
        split: as the data set calls it.

    Raises:
        InputError: if `datasets` is not installed, or cannot get it.
    """
    data = task.data
    try:
        datasets = import_module("datasets")
    except ImportError:
        what = f"task {task.name}: data sets of the Hub need the package datasets, which is not installed"
        raise InputError(what, EXTRA) from None
    try:
        loaded = datasets.load_dataset(data.hub, data.config, revision=data.revision, split=split)
    except Exception as error:  # whatever a data set's host, files or layout make of it
        what = f"task {task.name}: data set {data.hub}: {' '.join(str(error).split())}"
        raise InputError(what, "check name, configuration and split, and that the Hub can be reached") from None
    where = f"{data.hub} ({split})"
    label = loaded.features.get(task.column("label")[0]) if "label" in task.usual else None
    names = tuple(getattr(label, "names", None) or ())
    return Rows(where, _with_pictures(loaded, datasets.Image, f"task {task.name}: {where}"), names)


def _with_pictures(loaded: Any, kind: Any, where: str) -> list[Row]:
    """All rows; the pictures stay packed where they are."""
    columns = [name for name, feature in loaded.features.items() if isinstance(feature, kind)]
    packed = loaded
    for column in columns:
        packed = packed.cast_column(column, kind(decode=False))

    def picture(k: int, column: str) -> Picture:
        return Picture(f"{where}: {column} of example {k + 1}", lambda: packed[k][column] or {})

    return [
        {**row, **{column: picture(k, column) for column in columns}}
        for k, row in enumerate(loaded.remove_columns(columns))
    ]
