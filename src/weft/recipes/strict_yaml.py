"""YAML as recipes need it: text, numbers, lists and maps, of a bounded size, and nothing that surprises.

PyYAML's safe loader makes no objects, but a page of aliases can still stand for billions of entries, a number in base
sixty takes quadratic time, and of a key given twice the last one silently wins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from weft.errors import InputError, nearest, shown

LONGEST = 1_000_000
"""Bytes of a recipe."""
MOST_NODES = 100_000
"""Keys and values of a recipe, counted wherever an alias repeats them."""
DEEPEST = 40
"""How deep maps and lists may be nested."""
_LONGEST_NUMBER = 64
_PREFIX = "tag:yaml.org,2002:"
_TAGS = {f"{_PREFIX}{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge", "timestamp",
                                         "value")}  # fmt: skip
_NUMBERS = {f"{_PREFIX}int", f"{_PREFIX}float"}


def read_map(path: Path, kind: str, holds: str, remedy: str) -> dict[Any, Any]:
    """What a file holds that a person wrote: a map.

    Args:
        path: the file.
        kind: what such a file is called in messages.
        holds: what is in such a map, for a file that is none.
        remedy: what to do about such a file.

    Raises:
        InputError: if it cannot be read, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            parsed = parsed_yaml(file.read(LONGEST + 1))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", _near(path, kind)) from None
    except UnicodeDecodeError as error:
        what = f"{path}: not text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        raise InputError(what, "save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {_syntax(error)}", "mend the syntax there") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: a {kind} is a map with {holds}", remedy)
    return parsed


def _near(path: Path, kind: str) -> str:
    if path.is_dir():
        return f"name the {kind}'s file in it"
    beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
    return nearest(path.name, [file.name for file in beside]) or "check the path"


def _syntax(error: Exception) -> str:
    """What is wrong where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).replace('in "<unicode string>", ', "").split())
    begin = f", {error.context}" if error.context else ""
    begin += f" that begins in line {error.context_mark.line + 1}" if begin and error.context_mark else ""
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}{begin}"


def parsed_yaml(content: bytes) -> Any:
    r"""What a YAML document holds.

    Args:
        content: the document, in UTF-8.

    Raises:
        yaml.YAMLError: with the line, if it is not YAML, or too large, too deep, or with a key given twice.
        UnicodeDecodeError: if it is not UTF-8.

    Example:
        >>> parsed_yaml(b"a: &x [1, 2]\nb: *x\nc: 2024-01-01")
        {'a': [1, 2], 'b': [1, 2], 'c': '2024-01-01'}
    """
    if len(content) > LONGEST:
        raise yaml.YAMLError(f"it is longer than {LONGEST // 10**6} MB")
    try:
        return yaml.load(content.decode("utf-8"), _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ArithmeticError, LookupError, AttributeError, TypeError) as error:  # what PyYAML makes of odd scalars
        raise yaml.YAMLError(f"a value cannot be read: {type(error).__name__}") from None


def _fault(what: str, node: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, node.start_mark)  # type: ignore[arg-type]


class _Loader(yaml.SafeLoader):
    """Checks every node when it is composed, before anything is made of it."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._count = 0
        self._weights: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count what it stands for."""
        event, before = self.peek_event(), self._count  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise _fault(f"it is nested more than {DEEPEST} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._weights:
                raise _fault(f"the alias *{shown(event.anchor)[1:-1]} is part of what it stands for", event)
            self._count += self._weights[id(node)]
        elif node is not None:
            self._count += 1
            self._weights[id(node)] = self._count - before
            _check(node)
        if self._count > MOST_NODES:
            raise _fault(f"it has more than {MOST_NODES:,} entries, aliases counted", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key given twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a key is a list or a map, not text", key)
            if (key.tag, key.value) in seen:
                raise _fault(f"the key {shown(key.value)} is given twice", key)
            seen.add((key.tag, key.value))
        return node


def _check(node: yaml.Node) -> None:
    if node.tag not in _TAGS:
        raise _fault(f"the tag {shown(node.tag.removeprefix(_PREFIX))} is not read, only plain values", node)
    if not isinstance(node, yaml.ScalarNode):
        return
    if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise _fault(f"a number of {len(node.value):,} characters", node)
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise _fault("half of a surrogate pair, which is no text", node) from None


for _kind in ("timestamp", "value"):  # a date, or a lone `=`, is text to us
    _Loader.add_constructor(f"{_PREFIX}{_kind}", yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]
