"""From a YAML file, or keyword arguments, to a checked recipe; every problem is reported at once and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError, Problem, nearest, shown
from weft.recipes.schema import PATTERN, ModelEntry, Output, Recipe, Rule
from weft.recipes.strict_yaml import read_map

MOST = 1000
"""Models, patterns in rules, and changes of names in a recipe."""
_REMEDY = "see the recipe reference in the README"
_BOTH = "a recipe needs at least `method` and `models`"
_QUOTES = "put it in quotation marks: YAML reads numbers, yes, no, on, off and null as something other than text"
_NEEDED = {"method": _BOTH, "models": _BOTH, "match": PATTERN, "path": "write `- path: FOLDER`"}
"""What to write for a key that is missing."""
_ELSEWHERE = {
    "base_model": "write `base:`",
    "merge_method": "write `method:`",
    "dtype": "write `output: {dtype: ...}`",
    "out_dtype": "write `output: {dtype: ...}`",
    "weight": "write it under `parameters:`",
}
"""Keys of other tools' files, and keys in the wrong place."""


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file. Relative paths in it are relative to its folder.

    Raises:
        InputError: with every problem in it.
    """
    path = Path(path)
    parsed = read_map(path, "recipe", "`method`, `models` and so on", _REMEDY)
    if "folder" in parsed:
        raise InputError(f"{path}: unknown key 'folder'", "relative paths are relative to the recipe")
    _check_lengths(parsed, path)
    return make_recipe({**parsed, "folder": path.parent}, where=f"{path}: ")


def _check_lengths(parsed: Mapping[Any, Any], path: Path) -> None:
    """Names are compared with each other, and patterns with every tensor's name: thousands would take for ever."""
    rules = parsed.get("rules")
    patterns = [rule.get("match") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    lengths = {
        "models": _length(parsed.get("models")),
        "patterns in rules": sum(_length(match) or 1 for match in patterns),
        "changes in rename": _length(parsed.get("rename")),
    }
    for what, length in lengths.items():
        if length > MOST:
            raise InputError(f"{path}: {length:,} {what}, more than {MOST:,}", "merge in several steps")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


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
    if item["type"] == "invalid_key" or place[-1:] == ["[key]"]:
        inside = f" in {place[0]}" if len(place) > 1 else ""
        return Problem(f"{where}the key {shown(item['input'])}{inside} is not text", _QUOTES)
    mended = _NEEDED.get(place[-1]) if item["type"] == "missing" else item.get("ctx", {}).get("remedy")
    return Problem(f"{where}{' '.join((*place, worded(item)))}", mended or _REMEDY)


def _schema_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    inner: dict[str | int, type[BaseModel]] = {"rules": Rule, "output": Output, "models": ModelEntry}
    return inner.get(location[0], Recipe) if len(location) > 1 else Recipe
