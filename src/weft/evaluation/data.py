"""Examples of a task: read, cut to size, checked for the columns and labels that the task speaks of."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed, nearest, shown
from weft.evaluation.metrics import EXTRA
from weft.evaluation.schema import Classification, Data, ImageClassification, Task

SPLITS = ("train", "validation", "test")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """What a task asks of a model.

    Attributes:
        task: that it belongs to.
        where: the file, or the data set and split, for messages.
        rows: one for each example.
        digest: a hash of all of them.
    """

    task: Task
    where: str
    rows: Sequence[Row]
    digest: str

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, part: str) -> list[Any]:
        """What plays a part in every example; of a part that two columns play, pairs.

        Raises:
            InputError: if there is no such column.
        """
        names = self.task.column(part)
        for name in names:
            self._check(name)
        if len(names) == 1:
            return [row[names[0]] for row in self.rows]
        return [tuple(row[name] for name in names) for row in self.rows]

    def texts(self, part: str) -> list[Any]:
        """As `values`, checked to be text.

        Raises:
            InputError: naming the first example that is not.
        """
        found = self.values(part)
        for k, value in enumerate(found):
            if not all(isinstance(text, str) for text in (value if isinstance(value, tuple) else (value,))):
                what = f"{self.where}: {part} of example {k + 1} is {shown(value)}, not text"
                raise InputError(f"task {self.task.name}: {what}", "name the column that holds text in `columns`")
        return found

    def numbers(self, part: str) -> list[float]:
        """As `values`, checked to be finite numbers.

        Raises:
            InputError: naming the first example that is not.
        """
        return [self._number(k, part, value) for k, value in enumerate(self.values(part))]

    def classes(self, known: int) -> list[int]:
        """The label of every example as a position in the head.

        Args:
            known: how many classes the head tells apart.

        Raises:
            InputError: naming the first label that does not match.
        """
        names = self.task.labels if isinstance(self.task, (Classification, ImageClassification)) else ()
        if names and len(names) != known:
            what = f"task {self.task.name}: {len(names)} labels, but the head tells {known} classes apart"
            raise InputError(what, "give the labels' names in the head's order, or name the right head")
        places = {name: k for k, name in enumerate(names)}
        return [self._class(k, value, places, known) for k, value in enumerate(self.values("label"))]

    def _class(self, k: int, value: Any, places: Mapping[str, int], known: int) -> int:
        label = places.get(value, value) if isinstance(value, str) else value
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < known:
            return label
        what = f"task {self.task.name}: {self.where}: the label of example {k + 1} is {shown(value)}"
        if label == -1:
            raise InputError(f"{what}: the examples of this split have no labels", "choose another one with --split")
        if isinstance(label, str):
            remedy = nearest(label, places) or (f"the labels are {listed(places)}" if places else "")
            raise InputError(f"{what}", remedy or "name the classes in the head's order: `labels: [...]`")
        raise InputError(f"{what}, but the head tells {known} classes apart", "name the head of this task")

    def _number(self, k: int, part: str, value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        what = f"task {self.task.name}: {self.where}: {part} of example {k + 1} is {shown(value)}, not a number"
        raise InputError(what, "name the column that holds numbers in `columns`")

    def _check(self, column: str) -> None:
        for k, row in enumerate(self.rows):
            if column not in row:
                what = f"task {self.task.name}: {self.where}: example {k + 1} has no column {column!r}"
                remedy = nearest(column, row) or f"it has {listed(row)}; say which is which in `columns`"
                raise InputError(what, remedy)


def examples(task: Task, split: str, limit: int | None = None, root: Path | None = None) -> Examples:
    """Read the examples of a split.

    Args:
        task: whose.
        split: `train`, `validation` or `test`.
        limit: only so many, the first.
        root: the folder that relative data folders begin from; the task file's, if not given.

    Raises:
        InputError: if they cannot be read, or there are none.
    """
    name = task.data.splits.get(split, split)
    where, rows = _from_hub(task, name) if task.data.hub else _from_folder(task, name, root)
    if not rows:
        what = f"task {task.name}: {where}: the split {split!r} is empty"
        raise InputError(what, "choose another one with --split, or mend the data")
    rows = rows[:limit] if limit else rows
    return Examples(task, where, rows, _digest(rows))


def _digest(rows: Sequence[Row]) -> str:
    hashed = hashlib.sha256()
    for row in rows:
        for name, value in sorted(row.items()):
            content = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
            hashed.update(f"{name} {getattr(value, 'size', '')} {len(content)} ".encode() + content)
    return hashed.hexdigest()


def _from_folder(task: Task, split: str, root: Path | None) -> tuple[str, Sequence[Row]]:
    folder = _folder_of(task, task.data, root)
    found = [folder / f"{split}{suffix}" for suffix in _READERS if (folder / f"{split}{suffix}").is_file()]
    if not folder.is_dir():
        raise InputError(f"task {task.name}: {folder}: no such folder", "mend `data: {folder: ...}`, or give --data")
    if not found:
        there = [file.stem for file in folder.iterdir() if file.suffix in _READERS]
        remedy = f"there are {listed(sorted(there))}" if there else f"a split is a file {split}.jsonl there"
        raise InputError(f"task {task.name}: {folder} has no split {split!r}", remedy)
    try:
        rows = _READERS[found[0].suffix](found[0])
    except (OSError, ValueError) as error:
        what = " ".join(str(error).split())
        raise InputError(f"task {task.name}: {found[0]} cannot be read: {what}", "mend the file") from None
    if isinstance(task, ImageClassification):
        rows = [_with_image(task, row, folder) for row in rows]
    return str(found[0]), rows


def _folder_of(task: Task, data: Data, root: Path | None) -> Path:
    assert data.folder is not None
    return task.located(data.folder) if root is None else root / data.folder.expanduser()


def _jsonl(file: Path) -> list[Row]:
    return [_row(json.loads(line), k) for k, line in enumerate(file.read_text("utf-8").splitlines()) if line.strip()]


def _json(file: Path) -> list[Row]:
    parsed = json.loads(file.read_text("utf-8"))
    if not isinstance(parsed, list):
        raise ValueError("it is no list of examples")
    return [_row(item, k) for k, item in enumerate(parsed)]


def _row(parsed: Any, k: int) -> Row:
    if not isinstance(parsed, dict):
        raise ValueError(f"example {k + 1} is {shown(parsed)}, not a map from columns to values")
    return parsed


def _csv(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(lines)]


def _value(text: Any) -> Any:
    """A cell as a number if it looks like one."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text


def _parquet(file: Path) -> list[Row]:
    try:
        rows: list[Row] = import_module("pyarrow.parquet").read_table(file).to_pylist()
    except ImportError:
        raise InputError(f"{file}: reading Parquet needs pyarrow, which is not installed", EXTRA) from None
    return rows


_READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _with_image(task: Task, row: Row, folder: Path) -> Row:
    """The row with the picture in the place of its file's name."""
    column = task.column("image")[0]
    if not isinstance(row.get(column), str):
        return row
    image = import_module("PIL.Image")
    try:
        with image.open(folder / row[column]) as opened:
            return {**row, column: opened.convert("RGB")}
    except OSError as error:
        what = f"task {task.name}: {folder / row[column]}: {error.strerror or error}"
        raise InputError(what, "mend the file, or the column that names it") from None


def _from_hub(task: Task, split: str) -> tuple[str, Sequence[Row]]:
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
    return f"{data.hub} ({split})", [_plain(row) for row in loaded]


def _plain(row: Row) -> Row:
    return {name: value.convert("RGB") if hasattr(value, "convert") else value for name, value in row.items()}
