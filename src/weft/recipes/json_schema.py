"""The JSON schema of a recipe, with the parameters of all methods in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weft.algorithms.correction import Correction
from weft.algorithms.method import Method
from weft.algorithms.registry import usable
from weft.algorithms.sparsifier import Sparsifier
from weft.recipes.schema import Recipe


def recipe_schema() -> dict[str, Any]:
    """What a recipe may say, as JSON schema (draft 2020-12).

    Example:
        >>> "ties" in recipe_schema()["properties"]["method"]["enum"]
        True
    """
    kinds, _ = usable()
    schema = Recipe.model_json_schema()
    schema["title"] = "Weft recipe"
    schema["properties"].pop("folder", None)
    schema["properties"]["method"]["enum"] = list(kinds)
    model, rule = schema["$defs"]["ModelEntry"], schema["$defs"]["Rule"]
    everywhere = _parameters(kinds, per_model_only=False)
    schema["properties"]["parameters"] = {"type": "object", "properties": everywhere, "additionalProperties": False}
    rule["properties"]["parameters"] = schema["properties"]["parameters"]
    rule["properties"]["method"] = {"enum": list(kinds), "description": "merge these tensors by another method"}
    rule["properties"]["match"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    for place, family in (("before", Sparsifier), ("after", Correction)):
        schema["$defs"][place] = _step(kind for kind in kinds.values() if issubclass(kind, family))
        schema["properties"][place] = rule["properties"][place] = {"$ref": f"#/$defs/{place}"}
    model["properties"] |= _parameters(kinds, per_model_only=True)
    model["additionalProperties"] = False
    schema["properties"]["models"]["minItems"] = 1
    schema["properties"]["models"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/ModelEntry"}]}
    schema["$defs"]["Output"]["properties"]["shard_size"] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    return schema


def _step(kinds: Iterable[type[Sparsifier | Correction]]) -> dict[str, Any]:
    """A step before or after the method: its name, a map of that and its parameters, or `none`."""
    steps = {kind.name: {name: _one(kind, name, single=False) for name in kind.chained_fields()} for kind in kinds}
    maps = [
        {
            "type": "object",
            "properties": {"method": {"const": name}, **parameters},
            "required": ["method"],
            "additionalProperties": False,
        }
        for name, parameters in steps.items()
    ]
    return {"anyOf": [{"enum": [*steps, "none", None]}, *maps]}


def _parameters(kinds: Mapping[str, type[Method]], per_model_only: bool) -> dict[str, Any]:
    """Every parameter of every method; of the same name in several, whatever one of them takes."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds.values():
        for name in kind.model_fields:
            if kind.is_per_model(name) or not per_model_only:
                found.setdefault(name, []).append(_one(kind, name, single=per_model_only))
    return {name: some[0] if len(some) == 1 else {"anyOf": some} for name, some in found.items()}


def _one(kind: type[Method], name: str, single: bool) -> dict[str, Any]:
    field = kind.model_json_schema()["properties"][name]
    described = {"description": f"{kind.name}: {kind.model_fields[name].description}"}
    if not kind.is_per_model(name):
        return {key: value for key, value in field.items() if key not in ("default", "title")} | described
    value: dict[str, Any] = field["items"]
    if single:
        return value | described
    per_model = {"type": "object", "additionalProperties": value}
    return {"anyOf": [value, {"type": "array", "items": value}, per_model]} | described
