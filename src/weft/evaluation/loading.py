"""From files, and folders of files, to checked tasks; every problem is reported at once and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from weft.algorithms.wording import worded
from weft.errors import Gathering, InputError, Problem, nearest, shown
from weft.evaluation.schema import KINDS, Data, Task, schema_of
from weft.recipes.strict_yaml import read_map

_REMEDY = "see docs/evaluate.md"


def load_tasks(paths: Sequence[str | Path]) -> tuple[Task, ...]:
    """Read tasks.

    Args:
        paths: YAML files, or folders of them.

    Raises:
        InputError: with every problem in all of them.
    """
    problems, found = Gathering(), []
    for path in paths:
        with problems:
            for file in _files(Path(path)):
                with problems:
                    found.append(load_task(file))
    problems.tell()
    check_names(found)
    return tuple(found)


def check_names(tasks: Sequence[Task]) -> None:
    """Names are what tells tasks apart in a table.

    Raises:
        InputError: if two have the same.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two tasks are called {name!r}", "give one of them another `name`")


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    if not found:
        raise InputError(f"{path}: holds no task, a file that ends in .yaml", _REMEDY)
    yield from found


def load_task(path: str | Path) -> Task:
    """Read one task.

    Args:
        path: a YAML file. Relative paths in it are relative to its folder; it gives the task its name.

    Raises:
        InputError: with every problem in it.
    """
    path = Path(path)
    parsed = read_map(path, "task", "`kind`, `data` and so on", _REMEDY)
    if "place" in parsed:
        raise InputError(f"{path}: unknown key 'place'", "relative paths are relative to the task's file")
    return make_task({"name": path.stem, **parsed, "place": path.parent}, where=f"{path}: ")


def make_task(parts: dict[str, Any], where: str = "") -> Task:
    """Check the parts of a task.

    Args:
        parts: as in `Task` and the schema of its kind.
        where: precedes every message.

    Raises:
        InputError: with every problem.

    Example:
        >>> make_task({"name": "x", "kind": "regression", "data": {"folder": "x"}, "metric": "accuracy"})
        Traceback (most recent call last):
            ...
        weft.errors.InputError: metric 'accuracy' does not fit regression
          -> it has pearson, spearman, pearson_and_spearman
    """
    kind = parts.get("kind")
    schema = schema_of(kind)
    if schema is None:
        remedy = nearest(str(kind), KINDS) or f"the kinds are {', '.join(KINDS)}"
        raise InputError(f"{where}kind {'is missing' if kind is None else f'{shown(kind)} is unknown'}", remedy)
    try:
        return schema.model_validate(parts)
    except ValidationError as error:
        raise InputError(_problem(item, schema, where) for item in error.errors()) from None


def _problem(item: Any, schema: type[Task], where: str) -> Problem:
    place = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        return Problem(f"{where}unknown key {'.'.join(place)!r}", _instead(place, schema))
    what, _, remedy = worded(item).partition("; ")
    return Problem(f"{where}{' '.join((*place, what))}", remedy or _REMEDY)


def _instead(place: Sequence[str], schema: type[Task]) -> str:
    """What to write instead of a key that is unknown there."""
    if len(place) == 1 and place[0] in Data.model_fields:
        return f"write it in `data:`, as `data: {{{place[0]}: ...}}`"
    fields = Data.model_fields if len(place) > 1 and place[0] == "data" else schema.model_fields
    known = [name for name in fields if name != "place"]
    return nearest(place[-1], known) or f"known: {', '.join(known)}"
