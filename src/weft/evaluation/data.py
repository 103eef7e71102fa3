"""Examples of a task: read, cut to size, checked for the columns and labels that the task speaks of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed, nearest, shown
from weft.evaluation.pictures import Picture
from weft.evaluation.reading import Row, from_folder, from_hub
from weft.evaluation.schema import Classification, ImageClassification, Task

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """What a task asks of a model.

    Attributes:
        task: that it belongs to.
        where: the file, or the data set and split, for messages.
        rows: one for each example.
        digest: a hash of all of them.
        names: of the classes, in order, if the data tell.
    """

    task: Task
    where: str
    rows: Sequence[Row]
    digest: str
    names: tuple[str, ...] = ()

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

    def pictures(self, part: str) -> list[Picture]:
        """As `values`, checked to be pictures, none of which is opened yet.

        Raises:
            InputError: naming the first example that is not.
        """
        found = self.values(part)
        for k, value in enumerate(found):
            if not isinstance(value, Picture):
                what = (
                    f"task {self.task.name}: {self.where}: {part} of example {k + 1} is {shown(value)}, not a picture"
                )
                raise InputError(what, "name the column that holds pictures, or names of their files, in `columns`")
        return found

    def numbers(self, part: str) -> list[float]:
        """As `values`, checked to be finite numbers.

        Raises:
            InputError: naming the first example that is not.
        """
        return [self._number(k, part, value) for k, value in enumerate(self.values(part))]

    def classes(self, known: int, told: Sequence[str] = ()) -> list[int]:
        """The label of every example as a position in the head.

        Args:
            known: how many classes the head tells apart.
            told: their names, in the head's order, if it has any.

        Raises:
            InputError: naming the first label that does not match.
        """
        names = self.task.labels if isinstance(self.task, (Classification, ImageClassification)) else ()
        if names and len(names) != known:
            what = f"task {self.task.name}: {len(names)} labels, but the head tells {known} classes apart"
            raise InputError(what, "give the labels' names in the head's order, or name the right head")
        for own in (names, self.names):
            self._check_order(own, told)
        places = {name: k for k, name in enumerate(names or told)}
        return [self._class(k, value, places, known) for k, value in enumerate(self.values("label"))]

    def _check_order(self, own: Sequence[str], told: Sequence[str]) -> None:
        """The same names in another order would be other classes."""
        ours, theirs = ([name.casefold() for name in names] for names in (own, told))
        if ours != theirs and sorted(ours) == sorted(theirs):
            what = f"task {self.task.name}: the labels are {', '.join(own)}, but the head's are {', '.join(told)}"
            raise InputError(what, "list `labels` in the head's order, with data that hold names; or name another head")

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
    found = from_hub(task, name) if task.data.hub else from_folder(task, name, root)
    if not found.rows:
        what = f"task {task.name}: {found.where}: the split {split!r} is empty"
        raise InputError(what, "choose another one with --split, or mend the data")
    rows = found.rows[:limit] if limit else found.rows
    return Examples(task, found.where, rows, _digest(rows), found.names)


def _digest(rows: Sequence[Row]) -> str:
    hashed = hashlib.sha256()
    for row in rows:
        for name, value in sorted(row.items()):
            content = value.digest() if isinstance(value, Picture) else repr(value).encode()
            hashed.update(f"{name} {len(content)} ".encode() + content)
    return hashed.hexdigest()
