"""Rows of data: from a file, a folder or the Hub, with their columns named.

`datasets` reads them: into Arrow tables that stay on disk, so that memory does not depend on their number.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from weft.checkpoints.opening import expanded
from weft.errors import InputError, Problem, listed, nearest
from weft.statistics.loading import ENCODER, Task, needed

_READERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
}
"""By suffix the reader of `datasets`. An empty field of a table is an empty text, and so is the word `None` a text."""
_SUFFIXES = ", ".join(_READERS)
_MISSING = f"name a file ({_SUFFIXES}), a folder that `save_to_disk` wrote, or a data set on the Hub"


@dataclass(frozen=True)
class Columns:
    """Which column holds what; None where it is to be guessed, or there is none.

    Attributes:
        text: what the model reads: text, or a list of words.
        text_pair: a second text, as in entailment.
        target: what the model should write.
        label: the class, or a list with one for each word.
        image: what an image model sees.
    """

    text: str | None = None
    text_pair: str | None = None
    target: str | None = None
    label: str | None = None
    image: str | None = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Those that are named: what for, and the column."""
        for field in fields(self):
            name = getattr(self, field.name)
            if name is not None:
                yield field.name, name


_GUESSES: Mapping[str, tuple[str, ...]] = {
    "text": (
        "text", "tokens", "words", "sentence", "sentence1", "premise", "question", "question1", "document", "dialogue",
        "article", "content", "review", "tweet", "input", "source", "inputs",
    ),
    "target": ("target", "summary", "highlights", "answer", "output", "translation", "targets", "response"),
    "label": ("label", "labels", "class", "ner_tags", "tags", "coarse_label", "fine_label", "intent", "emotion"),
    "image": ("image", "img", "pixel_values", "picture"),
}  # fmt: skip
_PARTNERS = {
    "sentence1": "sentence2", "premise": "hypothesis", "question": "sentence", "question1": "question2",
}  # fmt: skip
"""Columns that come in pairs."""


@dataclass(frozen=True)
class Table:
    """Rows whose columns are known.

    Attributes:
        rows: as `datasets` has them.
        label: what to call them in messages.
        columns: which column holds what.
        remarks: what was guessed, in words.
    """

    rows: Any
    label: str
    columns: Columns
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


@contextmanager
def opened(source: str, split: str | None, examples: int | None) -> Iterator[Any]:
    """The rows of a data set, as `datasets` has them, until the end of the block.

    Args:
        source: a file, a folder, or `name` or `name:configuration` on the Hub.
        split: which part of it; None for the only one, or `train`.
        examples: how many rows, spread evenly over all, since data often lie sorted by class; None for all.

    Raises:
        InputError: for what is not there, cannot be read, or has no rows; naming the splits that there are.
    """
    (datasets,) = needed("datasets")
    with TemporaryDirectory(prefix="weft-data-") as scratch, _quiet(datasets):
        rows = _read(datasets, source, split, scratch)
        if len(rows) == 0:
            raise InputError(f"{source}: has no rows", "name data with examples in it")
        if examples is not None and examples < 1:
            raise InputError(f"--examples {examples}: that is no example", "ask for 1 or more")
        few = examples is not None and examples < len(rows)
        yield rows.select([i * len(rows) // examples for i in range(examples)]) if examples and few else rows


def _read(datasets: Any, source: str, split: str | None, scratch: str) -> Any:
    path = expanded(source)
    if path.is_dir():
        return _of_split(_from_folder(datasets, path, scratch), source, split)
    if path.exists():
        return _from_file(datasets, path, split, scratch)
    if path.suffix in _READERS or path.is_absolute() or source.startswith((".", "~")):
        near = nearest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise InputError(f"{source}: no such file or folder", near or _MISSING)
    return _of_split(_from_hub(datasets, source), source, split)


def _from_file(datasets: Any, path: Path, split: str | None, scratch: str) -> Any:
    if path.suffix not in _READERS:
        raise InputError(f"{path}: rows are read from {_SUFFIXES}", "convert it to one of these")
    if split not in (None, "train"):
        raise InputError(
            f"{path}: --split {split} is for data sets that have splits, and a file is one", "leave it out"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty", "name data with examples in it")
    reader, options = _READERS[path.suffix]
    return _tried(
        f"{path}: cannot be read as {path.suffix}",
        lambda: datasets.load_dataset(reader, data_files=str(path), split="train", cache_dir=scratch, **options),
    )


def _from_folder(datasets: Any, path: Path, scratch: str) -> Any:
    saved = any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))
    if saved:
        return _tried(f"{path}: cannot be read as a saved data set", lambda: datasets.load_from_disk(str(path)))
    return _tried(
        f"{path}: is no folder that `save_to_disk` wrote, and holds no data files or folders of images",
        lambda: datasets.load_dataset(str(path), cache_dir=scratch),
    )


def _from_hub(datasets: Any, source: str) -> Any:
    name, _, configuration = source.partition(":")
    what = f"{source}: no such file or folder, and the Hub did not give a data set of this name"
    return _tried(what, lambda: datasets.load_dataset(name, configuration or None))


def _tried(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # the readers beneath have their own kinds of error
        cause = error.__cause__ or error
        if isinstance(cause, StopIteration) or "corresponds to no data" in str(cause):
            raise InputError(f"{what.partition(':')[0]}: has no rows", "name data with examples in it") from None
        told = str(cause).strip().splitlines() or [type(cause).__name__]
        raise InputError(f"{what}: {told[0]}", _MISSING) from None


def _of_split(found: Any, source: str, split: str | None) -> Any:
    if not isinstance(found, Mapping):
        if split is not None:
            raise InputError(f"{source}: has no splits, so --split {split} cannot be chosen", "leave it out")
        return found
    wanted = split or (next(iter(found)) if len(found) == 1 else "train")
    if wanted not in found:
        what = f"{source}: has no split {wanted!r}" if split else f"{source}: has several splits"
        raise InputError(what, f"choose one with --split: {listed(found)}")
    return found[wanted]


def with_columns(rows: Any, source: str, asked: Columns, task: Task, *, needs_label: bool) -> Table:
    """See that the columns are there that a task needs; those that nobody named are guessed.

    Args:
        rows: as `datasets` has them.
        source: what to call them.
        asked: columns that were named.
        task: what the model does.
        needs_label: whether it must be known what is right.

    Raises:
        InputError: naming the columns that there are.
    """
    known = tuple(rows.column_names)
    problems = [_no_column(source, use, name, known) for use, name in asked if name not in known]
    if problems:
        raise InputError(problems)
    wanted = ["image" if task.reads == "image" else "text"]
    wanted += ["target"] if task.name == "seq2seq-lm" else []
    wanted += ["label"] if needs_label and task.name in _CLASSIFY else []
    chosen, remarks = asked, []
    for use in wanted:
        if getattr(chosen, use) is None:
            guess = _guess(use, rows, {name for _, name in chosen})
            if guess is None:
                remedy = f"name the column with {_option(use)}; there are: {listed(known, 20)}"
                raise InputError(f"{source}: which column is the {use}?", remedy)
            chosen = replace(chosen, **{use: guess})
            remarks.append(f"column {guess!r} is taken for the {use} ({_option(use)} to choose another)")
    partner = _PARTNERS.get(chosen.text or "")
    if task.name in (*_CLASSIFY, ENCODER) and asked.text is None and asked.text_pair is None and partner in known:
        chosen = replace(chosen, text_pair=partner)
        remarks.append(f"column {partner!r} is taken for the second text (--text-pair to choose another)")
    return Table(rows, source, chosen, tuple(remarks))


_CLASSIFY = ("sequence-classification", "token-classification", "image-classification", ENCODER)


def _no_column(source: str, use: str, name: str, known: tuple[str, ...]) -> Problem:
    there = f"there are: {listed(known, 20)}"
    near = nearest(name, known)
    return Problem(f"{source}: has no column {name!r} ({_option(use)})", f"{near} {there}" if near else there)


def _guess(use: str, rows: Any, taken: set[str]) -> str | None:
    """A column by its name; the only one of its kind, if none is called so."""
    found = next((name for name in _GUESSES[use] if name in rows.column_names and name not in taken), None)
    if found is not None or use == "label":
        return found
    kinds = {"image": ("Image",), "text": ("string", "large_string"), "target": ("string", "large_string")}[use]
    alike = [name for name, kind in rows.features.items() if _kind(kind) in kinds and name not in taken]
    return alike[0] if len(alike) == 1 else None


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", "")) if type(feature).__name__ == "Value" else type(feature).__name__


def _option(use: str) -> str:
    return f"--{use.replace('_', '-')}"


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without bars and reports of the library's own."""
    enabled, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if enabled:
            datasets.enable_progress_bars()
