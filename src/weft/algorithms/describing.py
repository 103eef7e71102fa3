"""What a method says of itself, for terminals, programs and the documentation: read from its class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any, get_args

from weft.algorithms.correction import Correction
from weft.algorithms.method import Method, Tensors
from weft.algorithms.plugins import blamed
from weft.algorithms.sparsifier import Sparsifier
from weft.errors import InputError


def described(kind: type[Method]) -> dict[str, Any]:
    """All of it, as data.

    Example:
        >>> from weft.algorithms.slerp import Slerp
        >>> described(Slerp)["needs"], described(Slerp)["parameters"][0]["allowed"]
        ('exactly two models', 'from 0 to 1')
    """
    return {
        "name": kind.name,
        "title": kind.title,
        "formula": kind.formula,
        "source": kind.source,
        "needs_base": kind.needs_base,
        "models": {"least": kind.models[0], "most": kind.models[-1] if len(kind.models) == 1 else None},
        "needs": needs(kind),
        "place": place(kind),
        "parameters": [
            {
                "name": field,
                "default": info.default,
                "per_model": kind.is_per_model(field),
                "allowed": allowed(kind, field),
                "description": info.description,
            }
            for field, info in kind.model_fields.items()
        ],
    }


def needs(kind: type[Method]) -> str:
    """In words: what it cannot do without, and which files it can make use of.

    Example:
        >>> from weft.algorithms.fisher import Fisher
        >>> from weft.algorithms.regmean import RegMean
        >>> needs(Fisher), needs(RegMean)
        ('can use files: fisher', 'a file for each model: gram')
    """
    return "; ".join(_needed(kind))


def _needed(kind: type[Method]) -> Iterator[str]:
    if kind.needs_base:
        yield "base"
    if kind.models != Method.models:
        yield kind.counted()
    files = [field for field in kind.model_fields if takes_tensors(kind, field)]
    needed = files_needed(kind)
    if needed:
        yield f"a file for each model: {', '.join(needed)}"
    if used := [field for field in files if field not in needed]:
        yield f"can use files: {', '.join(used)}"


def place(kind: type[Method]) -> str:
    """Where in a recipe it may stand.

    Example:
        >>> from weft.algorithms.dare import Dare
        >>> place(Dare)
        'method or before'
    """
    if issubclass(kind, Sparsifier):
        return "method or before"
    return "method or after" if issubclass(kind, Correction) else "method"


def takes_tensors(kind: type[Method], field: str) -> bool:
    """Whether a parameter is itself tensors: a file."""
    info = kind.model_fields[field]
    inner = [mark for part in get_args(info.annotation) for mark in get_args(part)]
    return any(isinstance(mark, Tensors) for mark in (*info.metadata, *inner))


def together(kind: type[Method], files: Sequence[str]) -> tuple[str, ...]:
    """Of parameters that are a file for each model, as many as the method takes together; of two ways the earlier.

    Example:
        >>> from weft.algorithms.apl import Apl
        >>> from weft.algorithms.mats import Mats
        >>> together(Apl, ["gradient", "importance"]), together(Mats, ["fisher", "gram"])
        (('gradient',), ('fisher', 'gram'))
    """
    ways = (some for count in range(len(files), 0, -1) for some in combinations(files, count))
    return next((some for some in ways if _takes(kind, some)), ())


def files_needed(kind: type[Method]) -> tuple[str, ...]:
    """The parameters that are a file for each model without which its defaults are refused; of two ways the earlier.

    Example:
        >>> from weft.algorithms.apl import Apl
        >>> from weft.algorithms.mats import Mats
        >>> files_needed(Apl), files_needed(Mats)
        ((), ('gram',))
    """
    files = [field for field in kind.model_fields if takes_tensors(kind, field) and kind.is_per_model(field)]
    ways = (some for count in range(len(files) + 1) for some in combinations(files, count))
    return next((some for some in ways if _takes(kind, some)), ())


def _takes(kind: type[Method], files: tuple[str, ...]) -> bool:
    """Whether these files are all that a method wants beside its defaults."""
    with suppress(InputError), blamed(kind):
        kind.resolved(["a"], common=dict.fromkeys(files, "a.safetensors"))
        return True
    return False


def allowed(kind: type[Method], field: str) -> str:
    """In words: what values a parameter takes, read from its JSON schema.

    Example:
        >>> from weft.algorithms.ties import Ties
        >>> allowed(Ties, "scope"), allowed(Ties, "density")
        ('model, tensor', 'from 0 to 1')
    """
    schema = kind.model_json_schema()["properties"][field]
    schema = schema.get("items", schema) if kind.is_per_model(field) else schema
    if takes_tensors(kind, field):
        return "a file of tensors, or see there" if schema.get("default") else "a file of tensors"
    return ", or ".join(_worded(one) for one in schema.get("anyOf", [schema]))


def _worded(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "")
    if kind in ("number", "integer"):
        return _interval(schema, "a number" if kind == "number" else "a whole number")
    words = {"boolean": "true or false", "string": "a text", "null": "none", "array": "a list"}
    return words.get(kind, "see there")


def _interval(schema: dict[str, Any], number: str) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    parts = [f"{low:g} or more"] if low is not None else [f"more than {above:g}"] if above is not None else []
    parts += [f"{high:g} or less"] if high is not None else [f"less than {below:g}"] if below is not None else []
    return " and ".join(parts) or number


def readable(kind: type[Method]) -> str:
    """The docstring without its example and markup, the class's formula in the place of its formulas.

    What the docstring leaves out is there nevertheless: the formula after the first paragraph, the source at the end.
    """
    text = ((kind.__doc__ and inspect.getdoc(kind)) or kind.title).split("\n\nExample:")[0].strip()
    if ".. math::" not in text:
        first, _, rest = text.partition("\n\n")
        text = f"{first}\n\n.. math::\n\n{rest}".strip()
    if "Source: " not in text:
        text = f"{text}\n\nSource: {kind.source}"
    formula = re.compile(r"\.\. math::.*?(\n\n|\Z)", re.DOTALL)
    text = formula.sub(lambda _: f"    {kind.formula}\n\n", text, count=1)
    text = formula.sub("", text).strip()  # the class's formula holds all of them
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
