"""A recipe: which models, which method, which rules. Checked when it is made; it opens no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from weft.checkpoints.patterns import Expression, ExpressionError
from weft.errors import nearest
from weft.kernels.dtypes import BY_NAME, FLOATS

PATTERN = "give a pattern over tensor names, such as `match: '*norm*'`"
"""What a rule needs, as a remedy."""

RESERVED = ("base", "drop", "default")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _slip(what: str, remedy: str) -> PydanticCustomError:
    """What a validator raises: a finding that has a remedy of its own."""
    return PydanticCustomError("slip", "{what}", {"what": what, "remedy": remedy})


def parse_size(value: object) -> int:
    """A number of bytes from what a person writes.

    Raises:
        ValueError: if it is not a size.

    Example:
        >>> parse_size("5GB"), parse_size("1.5 GiB"), parse_size(1000)
        (5000000000, 1610612736, 1000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", str(value), re.IGNORECASE)
    unit = found[2].upper() if found else "?"
    unit = unit if not unit or unit.endswith("B") else f"{unit}B"
    if found is None or unit not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 500MB, 5GB or 2GiB")
    return int(Decimal(found[1]) * _UNITS[unit])


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        what, _, remedy = str(error).partition("; ")
        raise _slip(what, remedy) from None


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]


def _expressions_compile(changes: dict[str, str]) -> dict[str, str]:
    """Broken expressions are found here, once, and not in every model whose names they change."""
    for pattern, replacement in changes.items():
        if pattern.startswith("re:"):
            try:
                Expression(pattern[3:]).check_replacement(replacement)
            except ExpressionError as error:
                raise _slip(f"{pattern!r} -> {replacement!r}: {error}", "mend the expression") from None
    return changes


Renaming = Annotated[dict[str, str], AfterValidator(_expressions_compile)]
"""What to look for in tensor names, and what to put there."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ModelEntry(BaseModel):
    """One model: where it is, what it is called, and parameters of its own beside the path.

    Attributes:
        path: a path; in Python also a dict of tensors or a module.
        name: how rules and per-model values refer to it; by default the last part of the path.
        adapter: the folder of a LoRA adapter that is added to it on the fly.
        rename: changes to its tensors' names, before those of the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="allow", arbitrary_types_allowed=True)

    path: Any
    name: str = ""
    adapter: str | None = None
    rename: Renaming = {}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The per-model parameters."""
        return self.__pydantic_extra__ or {}


def _one_step(value: Any) -> Any:
    """A step by its name alone stands for itself with its defaults; `none` for no step."""
    if value in (None, "none"):
        return None
    return {"method": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else value


def _has_a_method(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and not isinstance(value.get("method"), str):
        raise _slip("has no `method`", "write for example `before: {method: dare, drop: 0.5}`")
    return value


ChainedStep = Annotated[dict[str, Any] | None, BeforeValidator(_one_step), AfterValidator(_has_a_method)]
"""A step before or after the method: its name under `method`, and its parameters beside it."""


class Rule(_Strict):
    """What is done with the tensors whose name matches; what it leaves open comes from the recipe."""

    match: tuple[str, ...]
    use: str | None = None
    method: str | None = None
    parameters: dict[str, Any] = {}
    before: ChainedStep = None
    after: ChainedStep = None

    def step(self, place: str, otherwise: dict[str, Any] | None) -> dict[str, Any] | None:
        """What happens before or after the method: as the rule says, if it says anything."""
        step: dict[str, Any] | None = getattr(self, place) if place in self.model_fields_set else otherwise
        return step

    @field_validator("match", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("match")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if pattern.startswith("re:"):
                try:
                    Expression(pattern[3:])
                except ExpressionError as error:
                    raise _slip(f"{pattern!r} is not a regular expression: {error}", "mend the expression") from None
        if not value:
            raise _slip("is empty", PATTERN)
        return value

    @model_validator(mode="after")
    def _copies_or_merges(self) -> Rule:
        chained = not self.model_fields_set.isdisjoint(("before", "after"))
        if self.use is not None and (self.method is not None or self.parameters or chained):
            what = "`use` copies a tensor, so `method` and `parameters` beside it would have no effect"
            raise _slip(what, "keep either `use` or the others")
        if self.use is None and self.method is None and not self.parameters and not chained:
            raise _slip("says nothing about its tensors", "give `use`, `method` or `parameters`")
        return self


class Output(_Strict):
    """How the result is stored."""

    dtype: str | None = None
    shard_size: Size = 5 * 10**9

    @field_validator("dtype")
    @classmethod
    def _a_float(cls, value: str | None) -> str | None:
        names = [dtype.name for dtype in FLOATS]
        if value is not None and value not in names:
            known = "is not a floating-point format" if value in BY_NAME else "is not known"
            raise _slip(f"{value!r} {known}", nearest(value, names) or f"use one of {', '.join(names)}")
        return value


class Recipe(_Strict):
    """A merge, written down.

    Attributes:
        method: the method's name.
        base: the pretrained model: a path; in Python also a dict of tensors or a module.
        models: the fine-tuned models, in order.
        parameters: the method's parameters.
        before: what changes every task vector first: the name of a sparsifier, or a map with it as `method` and its
            parameters.
        after: what corrects the merged tensors, in the same way.
        rules: over tensor names; the first match wins.
        rename: changes to the tensor names of every model (not of the base): what a name begins with, or `re:` and an
            expression, and what to put there.
        output: how the result is stored.
        on_missing: what to do about a tensor that a model lacks: stop, copy the base's, or merge it without that model.
        vocabulary: which rows the output has when the inputs' vocabularies differ: those of the base's tokens, as many
            as the largest input has, in place (`pad`), or those of all tokens (`union`); by default that is an error.
        on_nonfinite: what to do when a merged tensor holds values that are not finite: stop, warn or go on in silence.
        folder: what relative paths are relative to: where the recipe lies.

    Example:
        >>> recipe = Recipe(method="linear", models=["runs/a", {"path": "runs/b", "weight": 2}])
        >>> recipe.names
        ('a', 'b')
    """

    method: str
    base: Any = None
    models: tuple[ModelEntry, ...]
    parameters: dict[str, Any] = {}
    before: ChainedStep = None
    after: ChainedStep = None
    rules: tuple[Rule, ...] = ()
    rename: Renaming = {}
    output: Output = Output()
    on_missing: Literal["error", "base", "skip-model"] = "error"
    vocabulary: Literal["base", "pad", "union"] | None = None
    on_nonfinite: Literal["error", "warn", "ignore"] = "error"
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("models", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _slip("should be a list of models", "write it as a list, one `- FOLDER` for each model")
        if not value:
            raise _slip("should not be empty", "name the models to merge, one `- FOLDER` for each")
        for k, entry in enumerate(value, 1):
            if isinstance(entry, Mapping) and entry and "path" not in entry and not _holds_tensors(entry):
                raise _slip(f"number {k} has no `path`, only {', '.join(map(str, entry))}", "write `- path: FOLDER`")
            if entry is None or (isinstance(entry, Mapping) and entry.get("path", entry) is None):
                raise _slip(f"number {k} is empty", "name a model there, or take the line out")
        return tuple(entry if _is_entry(entry) else {"path": entry} for entry in value)

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Recipe:
        given = [entry.name for entry in self.models if entry.name]
        twice = {name for name in given if given.count(name) > 1}
        if twice:
            raise _slip(f"two models are called {min(twice)!r}", "give them names that differ")
        reserved = [name for name in given if name in RESERVED]
        if reserved:
            what = f"a model cannot be called {reserved[0]!r}: that word has a meaning of its own"
            raise _slip(what, "give it another `name`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the models are called: as given, else the last part of the path, made distinct."""
        given = [entry.name for entry in self.models]
        names: list[str] = []
        for k, entry in enumerate(self.models):
            name = entry.name or _name_of(entry.adapter or entry.path, k)
            taken = {*names, *given, *RESERVED} - ({entry.name} if entry.name else set())
            names.append(next(n for n in (name, *(f"{name}-{i}" for i in range(k + 1, 2 * k + 99))) if n not in taken))
        return tuple(names)


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    return any(hasattr(item, "shape") for item in value.values())


def _is_entry(value: object) -> bool:
    if isinstance(value, Mapping):
        return "path" in value and not hasattr(value["path"], "shape")
    return isinstance(value, ModelEntry)


def _name_of(path: object, position: int) -> str:
    if not isinstance(path, (str, Path)):
        return f"model_{position}"
    last = Path(path).name
    named = Path(path).resolve().name if last in ("", "..") else last
    return named.removesuffix(".safetensors").split("@")[0]
