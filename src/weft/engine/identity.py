"""What an output is made of, so that work is only taken up again for the very same; and what is not the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.layout import Layout
from weft.checkpoints.rows import RowMap
from weft.checkpoints.staging import Identity
from weft.engine.inputs import Inputs
from weft.engine.record import recipe_text
from weft.recipes.schema import Recipe
from weft.version import __version__


def identity(recipe: Recipe, inputs: Inputs, layout: Layout, environment: Mapping[str, str]) -> Identity | None:
    """What this merge is made of.

    Args:
        recipe: what is wanted.
        inputs: its checkpoints.
        layout: the output's files.
        environment: what it runs on, and with what.

    Returns:
        The recipe, every input's files with sizes, times and headers, the version, the output's layout: all that its
        bytes depend on. None if an input is in memory, which nothing tells from another with other numbers.
    """
    every = [*inputs.all(), *((c.label, c) for c in inputs.auxiliaries())]
    if not all(checkpoint.sources for _, checkpoint in every):
        return None
    maps = inputs.vocabulary.maps if inputs.vocabulary else {}
    told = {
        "weft": __version__,
        "environment": dict(environment),
        "recipe": recipe_text(recipe),
        "inputs": {label: _told(checkpoint) for label, checkpoint in every},
        "vocabulary": _digest("".join(_told_rows(maps))),
        "layout": _digest("".join(f"{s.name} {s.size} {hashlib.sha256(s.header).hexdigest()}" for s in layout.shards)),
    }
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]  # as it will be read back


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
    files = {str(file.path.absolute()): [file.size, file.mtime_ns] for file in checkpoint.sources}
    return {"files": files, "header": checkpoint.fingerprint["header_sha256"]}


def _told_rows(maps: Mapping[str, Mapping[str, RowMap]]) -> Iterator[str]:
    """Where every row of every tensor comes from."""
    for label, rows in sorted(maps.items()):
        for name, own in sorted(rows.items()):
            sources = [f"{checkpoint.label} {tensor}" for checkpoint, tensor in own.sources]
            yield f"{label} {name} {sources} {own.origin.tobytes().hex()} {own.row.tobytes().hex()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def differences(then: Identity, now: Identity) -> Iterator[str]:
    """What is not the same, in words."""
    if not then.keys() >= now.keys():
        yield "it does not say what it was made of"
        return
    if then["weft"] != now["weft"]:
        yield f"it was weft {then['weft']} then and is {now['weft']} now"
    if then["environment"] != now["environment"]:
        changes = _changed(yaml.safe_dump(then["environment"]), yaml.safe_dump(now["environment"]))
        yield f"it was computed by other programs ({'; '.join(changes)})"
    if then["recipe"] != now["recipe"]:
        yield f"the recipe is another ({'; '.join(_changed(then['recipe'], now['recipe']))})"
    yield from _other_inputs(then["inputs"], now["inputs"])
    if then["vocabulary"] != now["vocabulary"]:
        yield "a tokenizer is another"
    if then["layout"] != now["layout"]:
        yield "the output would be laid out differently"


def _other_inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for label in then.keys() & now.keys():
        files_then, files_now = then[label]["files"], now[label]["files"]
        changed = sorted(file for file in files_now if file in files_then and files_now[file] != files_then[file])
        if changed:
            yield f"{label} has changed: {', '.join(changed)}"
        elif files_then.keys() != files_now.keys():
            yield f"{label} is made of other files"
        elif then[label]["header"] != now[label]["header"]:
            yield f"{label} holds other tensors"


def _changed(then: str, now: str) -> Iterator[str]:
    before, after = dict(_leaves(yaml.safe_load(then))), dict(_leaves(yaml.safe_load(now)))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, 'nothing')} then, {after.get(key, 'nothing')} now"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for k, item in enumerate(value):
            yield from _leaves(item, f"{path}[{k}]")
    else:
        yield path, value
