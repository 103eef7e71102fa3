"""From data sets to small folders that `weft evaluate` reads: drawn, cut to size, with questions asked in words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from weft.errors import InputError, Problem, listed
from weft.evaluation.caching import hash_of, hash_of_files
from weft.evaluation.data import examples
from weft.evaluation.metrics import EXTRA
from weft.evaluation.pictures import Picture
from weft.evaluation.prompts import Asker
from weft.evaluation.protocols.schema import PromptedTask, Protocol, ProtocolTask, ZeroShotTask
from weft.evaluation.reading import Row
from weft.evaluation.schema import Classification, Data, ImageClassification, MultipleChoice, Regression, Task

_DRAW = 0
"""Seed of the examples that are drawn where not all are asked: they are often sorted by class."""
_VERSION = 1


@dataclass(frozen=True)
class Preparation:
    """What is prepared, and where.

    Attributes:
        protocol: says which split, how many tokens, which prompts.
        work: the folder to write to.
        base: whose image processor cuts images to size.
        data: a folder with local copies, a folder for each task; None if there are none.
        count: examples of each task; None for all.
    """

    protocol: Protocol
    work: Path
    base: Path
    data: Path | None = None
    count: int | None = None


@dataclass(frozen=True)
class _Rows:
    """Examples where they are, decoded when they are asked for; `digest` changes when they do."""

    where: str
    rows: Sequence[Row]
    digest: str
    names: tuple[str, ...] = ()


def prepared(task: ProtocolTask, how: Preparation) -> tuple[Task, ...]:
    """Write a task's examples, and say how to ask them; once, unless data or settings change.

    Args:
        task: of the protocol.
        how: where, and how many.

    Returns:
        One task; of a prompted one, a task for each prompt, called `NAME@1`, `NAME@2` ...

    Raises:
        InputError: if the data cannot be read, or have other columns or classes than the task says.
    """
    found = _found(task, how)
    chosen = _chosen(task, how, len(found.rows))
    _check_columns(task, found, chosen)
    settings = (how.protocol.split, how.protocol.prompts, _cutting(task, how.base))
    key = hash_of(_VERSION, task.model_dump(mode="json"), found.digest, chosen, settings)
    folder = how.work / "data" / f"{task.name}-{key[:16]}"
    if not folder.is_dir():
        making = folder.with_name(f".{folder.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        _WRITE[task.evaluated_as](task, how, found, chosen, making)
        making.replace(folder)
    return _tasks(task, how, folder)


def _cutting(task: ProtocolTask, base: Path) -> str:
    """What decides how images are cut."""
    names = ("preprocessor_config.json", "processor_config.json") if isinstance(task, ZeroShotTask) else ()
    return hash_of_files(file for name in names if (file := base / name).is_file())


def _found(task: ProtocolTask, how: Preparation) -> _Rows:
    """A local copy, or the Hub's."""
    split = task.data.splits.get(how.protocol.split, how.protocol.split)
    local = None if how.data is None else how.data / task.name
    if local is not None and (local.is_dir() or task.data.folder is not None):
        return _read(task, split, Data(folder=local.absolute()))
    if task.data.folder is not None:
        remedy = f"put it into DIR/{task.name}/{split}.jsonl and give --data DIR"
        raise InputError(f"task {task.name}: no Hub has its data: {task.elsewhere}", remedy)
    if isinstance(task, ZeroShotTask):
        return _lazily(task, split)
    try:
        return _read(task, split, task.data.model_copy(update={"splits": {}}))
    except InputError as error:
        raise InputError(Problem(p.what, f"{p.remedy}; {_copy(task, split)}") for p in error.problems) from None


def _copy(task: ProtocolTask, split: str) -> str:
    return f"or put a copy into DIR/{task.name}/{split}.jsonl and give --data DIR"


def _read(task: ProtocolTask, split: str, data: Data) -> _Rows:
    """All at once; which column plays which part is looked at later, but for files of images, which are opened."""
    parts = {"name": task.name, "data": data}
    if isinstance(task, ZeroShotTask):
        columns = {"image": _column(task, "image")}
        read = examples(
            ImageClassification.model_validate({**parts, "kind": "image-classification", "columns": columns}), split
        )
    else:
        read = examples(Classification.model_validate({**parts, "kind": "classification"}), split)
    return _Rows(read.where, read.rows, read.digest)


def _lazily(task: ProtocolTask, split: str) -> _Rows:
    """Images of a data set on the Hub: decoded all at once they may fill the memory."""
    try:
        datasets = import_module("datasets")
    except ImportError:
        what = f"task {task.name}: data sets of the Hub need the package datasets, which is not installed"
        raise InputError(what, EXTRA) from None
    data = task.data
    try:
        loaded = datasets.load_dataset(data.hub, data.config, revision=data.revision, split=split)
    except Exception as error:  # whatever a data set's host, files or layout make of it
        what = f"task {task.name}: data set {data.hub}: {' '.join(str(error).split())}"
        raise InputError(what, f"check that the Hub can be reached; {_copy(task, split)}") from None
    label = loaded.features.get(_column(task, "label"))
    names = tuple(getattr(label, "names", None) or ())
    return _Rows(f"{data.hub} ({split})", loaded, str(loaded._fingerprint), names)


def _column(task: ProtocolTask, part: str) -> str:
    found = task.columns.get(part, part)
    return found if isinstance(found, str) else found[0]


def _columns(task: ProtocolTask) -> list[str]:
    """That the task speaks of; prompts tell of theirs themselves."""
    if isinstance(task, PromptedTask):
        return []
    part = task.columns.get("image" if isinstance(task, ZeroShotTask) else "text")
    named = part or ("image" if isinstance(task, ZeroShotTask) else "text")
    return [*((named,) if isinstance(named, str) else named), _column(task, "label")]


def _check_columns(task: ProtocolTask, found: _Rows, chosen: Sequence[int]) -> None:
    if not chosen:
        raise InputError(f"task {task.name}: {found.where}: there are no examples", "mend the data, or take more")
    known = found.rows[chosen[0]]
    for name in _columns(task):
        if name not in known:
            what = f"task {task.name}: {found.where} has no column {name!r}; it has {listed(known)}"
            raise InputError(what, "rename the column, or mend `columns` in the task's file")
    if isinstance(task, ZeroShotTask) and found.names:
        _check_classes(task, found)


def _check_classes(task: ZeroShotTask, found: _Rows) -> None:
    """The data set's own names of its classes, as far as they are the same words, come in the same order."""
    what = f"task {task.name}: {found.where}"
    if len(found.names) != len(task.classes):
        told = f"{what} has {len(found.names)} classes, the task names {len(task.classes)}"
        raise InputError(told, "name every class once in the task's file, in the data set's order")
    theirs, ours = [[_plain(name) for name in names] for names in (found.names, task.classes)]
    for k, name in enumerate(theirs):
        if name in ours and ours.index(name) != k:
            told = f"{what} has {found.names[k]!r} as class {k}, the task as class {ours.index(name)}"
            raise InputError(told, "bring `classes` of the task's file into the data set's order")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _chosen(task: ProtocolTask, how: Preparation, count: int) -> list[int]:
    """The positions of the examples that are asked, in the data's order."""
    places = list(range(count))
    if task.held_out is not None:
        Random(task.held_out.seed).shuffle(places)
        cut = task.held_out.count if count > task.held_out.count else count // 2
        places = places[:cut] if how.protocol.split == "validation" else places[cut:]
    if how.count is not None and how.count < len(places):
        places = Random(_DRAW).sample(places, how.count)
    return sorted(places)


def _write_images(task: ProtocolTask, how: Preparation, found: _Rows, chosen: Sequence[int], folder: Path) -> None:
    """Cut as the processor cuts them: the same numbers come out again, of a few kilobytes."""
    processor = _processor(how.base)
    image, label = _column(task, "image"), _column(task, "label")
    (folder / "images").mkdir()
    rows = []
    for place in chosen:
        row = found.rows[place]
        name = f"images/{place:06d}.png"
        _cut(processor, _opened(row[image])).save(folder / name)
        rows.append({"image": name, "label": row[label]})
    _write(folder / f"{how.protocol.split}.jsonl", rows)


def _processor(base: Path) -> Any:
    try:
        return import_module("transformers").AutoImageProcessor.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        what = f"{base}: has no image processor: {str(error).splitlines()[0]}"
        raise InputError(what, "put the model's preprocessor_config.json into the folder") from None


def _opened(image: Any) -> Any:
    """What `datasets` has opened already, or a picture of a local copy."""
    return image.opened() if isinstance(image, Picture) else image.convert("RGB")


def _cut(processor: Any, image: Any) -> Any:
    numpy = import_module("numpy")
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    pixels = processor(images=[image], **options)["pixel_values"][0]
    return import_module("PIL.Image").fromarray(pixels.round().clip(0, 255).astype(numpy.uint8).transpose(1, 2, 0))


def _write_texts(task: ProtocolTask, how: Preparation, found: _Rows, chosen: Sequence[int], folder: Path) -> None:
    names = _columns(task)
    _write(folder / f"{how.protocol.split}.jsonl", ({name: found.rows[k][name] for name in names} for k in chosen))


def _write_questions(task: ProtocolTask, how: Preparation, found: _Rows, chosen: Sequence[int], folder: Path) -> None:
    for k, prompt in enumerate(_prompts(task, how.protocol)):
        asker = Asker(prompt.text, prompt.choices, f"task {task.name}: {found.where}: prompt {prompt.name!r}: ")
        asked = [asker.ask(found.rows[place], f"example {place + 1}") for place in chosen]
        rows = ({"question": q.question, "choices": q.choices, "label": q.label} for q in asked)
        _write(folder / str(k + 1) / f"{how.protocol.split}.jsonl", rows)


def _prompts(task: ProtocolTask, protocol: Protocol) -> Sequence[Any]:
    assert isinstance(task, PromptedTask)
    return task.prompts if protocol.prompts == "all" else task.prompts[:1]


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


_WRITE: Mapping[str, Callable[[ProtocolTask, Preparation, _Rows, Sequence[int], Path], None]] = {
    "image-classification": _write_images,
    "classification": _write_texts,
    "regression": _write_texts,
    "multiple-choice": _write_questions,
}


def _tasks(task: ProtocolTask, how: Preparation, folder: Path) -> tuple[Task, ...]:
    parts = {"name": task.name, "metric": task.metric, "kind": task.evaluated_as, "data": Data(folder=folder)}
    if isinstance(task, ZeroShotTask):
        return (ImageClassification.model_validate({**parts, "pooling": "projection", "normalize": True}),)
    parts["longest"] = how.protocol.longest
    if isinstance(task, PromptedTask):
        many = range(1, len(_prompts(task, how.protocol)) + 1)
        each = [{**parts, "name": f"{task.name}@{k}", "data": Data(folder=folder / str(k))} for k in many]
        return tuple(MultipleChoice.model_validate(one) for one in each)
    parts["columns"] = dict(task.columns)
    if task.kind == "regression":
        return (Regression.model_validate(parts),)
    return (Classification.model_validate({**parts, "labels": getattr(task, "labels", ())}),)
