"""Which protocols there are, read from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError, Problem, nearest, shown
from weft.evaluation.protocols.schema import TASKS, Protocol, ProtocolTask, path_of
from weft.recipes.strict_yaml import read_map

FOLDER = Path(__file__).parent
_REMEDY = "see docs/protocols.md"
_Some = TypeVar("_Some", bound=BaseModel)


def protocols() -> tuple[str, ...]:
    """The names of the protocols that come with Weft.

    Example:
        >>> "vision8" in protocols()
        True
    """
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


def load_protocol(name: str) -> Protocol:
    """Read a protocol.

    Args:
        name: of one that comes with Weft, or the path of a `.yaml` file of your own. Such a file names tasks that come
            with Weft, or files in the folder `tasks` beside it.

    Raises:
        InputError: if there is none, or with every problem in its file.

    Example:
        >>> load_protocol("vision8").title
        'Eight image classifications, CLIP ViT-B/32'
    """
    if name.endswith((".yaml", ".yml")):
        return _protocol(Path(name).expanduser())
    if name not in protocols():
        remedy = nearest(name, protocols()) or f"there are {', '.join(protocols())}; or name a .yaml file"
        raise InputError(f"there is no protocol {name!r}", remedy)
    return _protocol(path_of(FOLDER, name))


def _protocol(file: Path) -> Protocol:
    parts = read_map(file, "protocol", "`base`, `experts`, `tasks` and so on", _REMEDY)
    named = parts.get("tasks")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{file}: tasks should be a list of tasks' names", _REMEDY)
    tasks = [_task(file.parent / "tasks", name, file) for name in named]
    return _checked(Protocol, {"name": file.stem, **parts, "tasks": tasks}, file)


def _task(beside: Path, name: str, asking: Path) -> ProtocolTask:
    file = next((path for path in (path_of(beside, name), path_of(FOLDER / "tasks", name)) if path.is_file()), None)
    if file is None:
        known = sorted(path.stem for place in {beside, FOLDER / "tasks"} for path in place.glob("*.yaml"))
        raise InputError(f"{asking}: there is no task {name!r}", nearest(name, known) or f"put it into {beside}")
    parts = read_map(file, "task", "`kind`, `data` and so on", _REMEDY)
    schema = TASKS.get(str(parts.get("kind")))
    if schema is None:
        known_kinds = ", ".join(TASKS)
        raise InputError(f"{file}: kind {shown(parts.get('kind'))} is unknown", f"the kinds are {known_kinds}")
    return _checked(schema, {"name": file.stem, **parts}, file)


def _checked(schema: type[_Some], parts: dict[str, Any], file: Path) -> _Some:
    try:
        return schema.model_validate(parts)
    except ValidationError as error:
        raise InputError(_problem(item, schema, file) for item in error.errors()) from None


def _problem(item: Any, schema: type[BaseModel], file: Path) -> Problem:
    place = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = schema.model_fields
        return Problem(f"{file}: unknown key {'.'.join(place)!r}", nearest(place[-1], known) or _REMEDY)
    return Problem(f"{file}: {' '.join((*place, worded(item)))}", _REMEDY)
