"""What a merge leaves beside the weights: the recipe, a lock file, a model card. Enough to do it again, exactly."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from weft.algorithms.correction import Correction
from weft.algorithms.method import Tensors
from weft.algorithms.registry import method
from weft.algorithms.sparsifier import Sparsifier
from weft.checkpoints.companions import library_of
from weft.checkpoints.layout import Layout
from weft.engine.inputs import Inputs
from weft.errors import InputError
from weft.recipes.schema import Recipe, Rule
from weft.version import __version__

RECIPE = "weft_recipe.yaml"
LOCK = "weft.lock.json"
CARD = "README.md"


def write_record(
    folder: Path,
    target: Path,
    recipe: Recipe,
    inputs: Inputs,
    layout: Layout,
    environment: Mapping[str, str],
    hashes: bool,
) -> None:
    """Write recipe, lock file and model card.

    Args:
        folder: where to write, the staging folder.
        target: where that folder will be; paths in the recipe are made relative to it.
        recipe: what was asked for.
        inputs: the checkpoints, still open.
        layout: the output's files.
        environment: what it was computed on, and with what.
        hashes: whether to hash the contents of the output's files.
    """
    text = recipe_text(relocated(_pinned(recipe, inputs), target))
    (folder / RECIPE).write_text(text, "utf-8")
    (folder / CARD).write_text("\n".join(_card(recipe, inputs, text, target)) + "\n", "utf-8")
    (folder / LOCK).write_text(json.dumps(_lock(folder, inputs, layout, environment, hashes), indent=2) + "\n", "utf-8")


def _pinned(recipe: Recipe, inputs: Inputs) -> Recipe:
    """The recipe with the commit of every model that came from the Hub, so that it stays the same model."""
    pins = {label: fetched.pinned for label, fetched in inputs.fetched.items()}
    entries = [
        {**dict(entry), **entry.parameters, "name": name, "path": pins.get(f"model {name!r}", entry.path)}
        | {"adapter": pins.get(f"adapter of model {name!r}", entry.adapter)}
        for name, entry in zip(recipe.names, recipe.models, strict=True)
    ]
    return Recipe.model_validate({**dict(recipe), "base": pins.get("base", recipe.base), "models": entries})


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, with every default spelled out and in-memory inputs named as such."""
    parts = recipe.model_dump(mode="python", exclude={"models", "rules"})
    models = [
        entry.model_dump(mode="python") | {"name": n} for n, entry in zip(recipe.names, recipe.models, strict=True)
    ]
    parts["parameters"] = _defaults(recipe) | parts["parameters"]
    parts |= {"before": _completed(recipe.before), "after": _completed(recipe.after)}
    rules = [_written(rule) for rule in recipe.rules]
    ordered = {"method": parts.pop("method"), "base": parts.pop("base"), "models": models, **parts, "rules": rules}
    return yaml.safe_dump(_plain(ordered), sort_keys=False, allow_unicode=True)


def _written(rule: Rule) -> dict[str, Any]:
    """A rule with what it says and nothing else: a step that it leaves open is the recipe's, `none` is no step."""
    told = {name: getattr(rule, name) for name in Rule.model_fields if name in rule.model_fields_set}
    steps = {place: _completed(told.pop(place)) or "none" for place in ("before", "after") if place in told}
    return {name: value for name, value in told.items() if value} | steps


def _completed(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A step before or after the method, with its defaults beside what was written."""
    if step is None:
        return None
    kind = method(step["method"])
    fields = kind.chained_fields() if issubclass(kind, (Sparsifier, Correction)) else {}
    defaults = {name: info.default for name, info in fields.items() if info.default is not None}
    return {"method": kind.name} | defaults | step


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """Defaults of the methods, so that the record keeps its meaning when they change.

    One that two methods of the recipe have, each with its own default, is left out: it would hold for both.
    """
    kinds = [method(name) for name in dict.fromkeys([recipe.method, *(r.method for r in recipe.rules if r.method)])]
    found = {}
    for name, info in (field for kind in kinds for field in kind.model_fields.items()):
        defaults = [kind.model_fields[name].default for kind in kinds if name in kind.model_fields]
        if info.default is not None and all(default == info.default for default in defaults):
            found[name] = info.default
    return found


def relocated(recipe: Recipe, target: Path) -> Recipe:
    """The recipe with its relative paths made relative to another folder, so that it can be run from there."""

    def moved(value: Any, words: Collection[str] = ()) -> Any:
        if isinstance(value, Mapping) and not any(hasattr(v, "shape") for v in value.values()):
            return {key: moved(item, words) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [moved(item, words) for item in value]
        local = isinstance(value, (str, os.PathLike)) and not os.path.isabs(value) and value not in words
        return os.path.relpath(recipe.folder / value, target) if local and (recipe.folder / value).exists() else value

    def files_moved(values: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
        files = _file_parameters(kinds)
        return {key: moved(value, files[key]) if key in files else value for key, value in values.items()}

    def step_moved(step: dict[str, Any] | None) -> dict[str, Any] | None:
        return step and files_moved(step, step["method"])

    def rule_moved(rule: Rule) -> Rule:
        changes: dict[str, Any] = {"parameters": files_moved(rule.parameters, rule.method or recipe.method)}
        changes |= {"before": step_moved(rule.before), "after": step_moved(rule.after)}
        said = rule.model_fields_set
        return rule.model_copy(update={name: value for name, value in changes.items() if name in said})

    used = (recipe.method, *(rule.method for rule in recipe.rules if rule.method))
    paths = ({"path": moved(entry.path), "adapter": moved(entry.adapter)} for entry in recipe.models)
    own = (files_moved(entry.parameters, *used) for entry in recipe.models)
    changes = {
        "base": moved(recipe.base),
        "models": [{**dict(e), **o, **p} for e, o, p in zip(recipe.models, own, paths, strict=True)],
        "parameters": files_moved(recipe.parameters, *used),
        "before": step_moved(recipe.before),
        "after": step_moved(recipe.after),
        "rules": [rule_moved(rule) for rule in recipe.rules],
    }
    return Recipe.model_validate({**dict(recipe), **changes, "folder": target})


def _file_parameters(kinds: Iterable[str]) -> dict[str, frozenset[str]]:
    """The parameters of these methods that are files of tensors, with the words that may stand in a file's place."""
    found: dict[str, frozenset[str]] = {}
    for name, info in (field for kind in kinds for field in method(kind).model_fields.items()):
        for mark in (*_marks(info.annotation), *_marks(info.metadata)):
            found[name] = found.get(name, frozenset()) | mark.words
    return found


def _marks(value: Any) -> Iterator[Tensors]:
    """Every mark of tensors in an annotation, however deep."""
    if isinstance(value, Tensors):
        yield value
        return
    parts = value if isinstance(value, list) else [*getattr(value, "__metadata__", ()), *getattr(value, "__args__", ())]
    yield from (mark for part in parts for mark in _marks(part))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping) and any(hasattr(v, "shape") for v in value.values()):
        return "(tensors in memory)"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else f"({type(value).__name__} in memory)"


def _lock(folder: Path, inputs: Inputs, layout: Layout, environment: Mapping[str, str], hashes: bool) -> dict[str, Any]:
    return {
        "weft": __version__,
        "environment": dict(environment),
        "inputs": fingerprints(inputs),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "outputs": dict(_outputs(folder, layout, hashes)),
    }


def fingerprints(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What tells these checkpoints from others, by the names that messages give them.

    Those beside the models are told of once they are opened, as a plan does; several of one name are numbered.
    """
    told: dict[str, dict[str, Any]] = {label: dict(checkpoint.fingerprint) for label, checkpoint in inputs.all()}
    for label, checkpoint in inputs.beside():
        known = dict(checkpoint.fingerprint)
        names = chain([label], (f"{label} ({k})" for k in count(2)))
        told.setdefault(next(name for name in names if told.get(name, known) == known), known)
    for label, fetched in inputs.fetched.items():
        told.setdefault(label, {})
        told[label] |= {"hub": fetched.name, "commit": fetched.commit}
    return told


def environment(device: str = "") -> Iterator[tuple[str, str]]:
    """What it runs on, and with what.

    Args:
        device: where torch computes; empty if it does not.
    """
    from importlib.metadata import version

    yield "python", platform.python_version()
    yield "platform", f"{platform.system()} {platform.machine()}"
    for package in ("numpy", "numba", "llvmlite", *(("torch",) if device else ())):
        yield package, version(package)
    if device:
        yield "device", device


def _outputs(folder: Path, layout: Layout, hashes: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The shards' sizes and headers; with hashes all bytes of every file, which may then not be edited any more."""
    for shard in layout.shards:
        told: dict[str, Any] = {"size": shard.size, "header_sha256": hashlib.sha256(shard.header).hexdigest()}
        yield shard.name, told | ({"blake3": content_hash(folder / shard.name)} if hashes else {})
    shards = {shard.name for shard in layout.shards}
    for path in sorted(folder.rglob("*")) if hashes else ():
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in shards:
            yield name, {"size": path.stat().st_size, "blake3": content_hash(path)}


def check_hashing() -> None:
    """See that contents can be hashed.

    Raises:
        InputError: if blake3 is not installed.
    """
    if importlib.util.find_spec("blake3") is None:
        raise InputError("--hash needs the package blake3", 'pip install "weft[hash]"')


def content_hash(path: Path) -> str:
    """The blake3 hash of a file, in hexadecimal.

    Raises:
        InputError: if blake3 is not installed.
    """
    check_hashing()
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    return str(hasher.update_mmap(path).hexdigest() if path.stat().st_size else hasher.hexdigest())


def _card(recipe: Recipe, inputs: Inputs, text: str, target: Path) -> Iterator[str]:
    """A model card as the Hub expects it."""
    front: dict[str, Any] = {"tags": ["merge", "weft"]}
    public = list(dict.fromkeys(fetched.name for fetched in inputs.fetched.values()))
    if public:
        front["base_model"] = public
    library = library_of(inputs.reference.path) if inputs.reference.path else None
    if library:
        front["library_name"] = library
    yield f"---\n{yaml.safe_dump(front, sort_keys=False)}---"
    yield f"# {target.name}\n\nMerged with Weft {__version__} by `{recipe.method}` "
    yield f"({method(recipe.method).source}).\n\n| input | tensors | parameters |\n|---|---:|---:|"
    for label, checkpoint in inputs.all():
        count = sum(spec.size for spec in checkpoint.tensors.values())
        yield f"| {label} | {len(checkpoint.tensors):,} | {count:,} |"
    yield f"\n## Recipe\n\n```yaml\n{text}```"
