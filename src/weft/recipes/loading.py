"""From a YAML file, or keyword arguments, to a checked recipe; every problem is reported at once and in words."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError, Problem, nearest
from weft.recipes.schema import ModelEntry, Output, Recipe, Rule

_REMEDY = "see the recipe reference in the README"
_REMEDIES = {"missing": "a recipe needs at least `method` and `models`"}
_ELSEWHERE = {
    "base_model": "write `base:`",
    "merge_method": "write `method:`",
    "dtype": "write `output: {dtype: ...}`",
    "out_dtype": "write `output: {dtype: ...}`",
    "weight": "write it under `parameters:`",
}
"""Keys of other tools' files, and keys in the wrong place."""


class _Loader(yaml.SafeLoader):
    """Safe loading that also refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file. Relative paths in it are relative to its folder.

    Raises:
        InputError: with every problem in it.
    """
    path = Path(path)
    try:
        parsed = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "check the path") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {_one_line(error)}", "mend the syntax there") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: a recipe is a map with `method`, `models` and so on", _REMEDY)
    if "folder" in parsed:
        raise InputError(f"{path}: unknown key 'folder'", "relative paths are relative to the recipe")
    return make_recipe({**parsed, "folder": path.parent}, where=f"{path}: ")


def make_recipe(parts: dict[str, Any], where: str = "") -> Recipe:
    """Check the parts of a recipe.

    Args:
        parts: as in `Recipe`.
        where: precedes every message.

    Raises:
        InputError: with every problem in it.

    Example:
        >>> make_recipe({"method": "ties", "modles": ["a"]})
        Traceback (most recent call last):
            ...
        weft.errors.InputError: 2 problems:
        1. models is missing
          -> a recipe needs at least `method` and `models`
        2. unknown key 'modles'
          -> did you mean 'models'?
    """
    try:
        return Recipe.model_validate(parts)
    except ValidationError as error:
        raise InputError(_problem(item, where) for item in error.errors()) from None


def _problem(item: Any, where: str) -> Problem:
    place = [str(part + 1) if isinstance(part, int) else part for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = _schema_at(item["loc"]).model_fields
        inside = f" in {' '.join(place[:-1])}" if len(place) > 1 else ""
        remedy = _ELSEWHERE.get(place[-1]) or nearest(place[-1], known) or f"known: {', '.join(known)}"
        return Problem(f"{where}unknown key {place[-1]!r}{inside}", remedy)
    text = f"{where}{' '.join(place)} {worded(item)}" if place else f"{where}{worded(item)}"
    return Problem(text, _REMEDIES.get(item["type"], ""))


def _schema_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    inner: dict[str | int, type[BaseModel]] = {"rules": Rule, "output": Output, "models": ModelEntry}
    return inner.get(location[0], Recipe) if len(location) > 1 else Recipe


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
