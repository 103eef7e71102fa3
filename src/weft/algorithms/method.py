"""What a merge method is: parameters declared once, and a program that the engine runs.

A method is a frozen pydantic model. Its fields are its parameters, so that recipes, the command line, `weft methods`
and the documentation read them from one place. Its `program` says, as data, which scalar function computes one
parameter and which statistics that function needs; how tensors are streamed to it is the engine's business. What
programs are made of is in `program.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from weft.algorithms.program import Program
from weft.algorithms.wording import worded
from weft.errors import InputError, Problem, nearest

T = TypeVar("T")


class _PerModel:
    """Marks a parameter that has one value for each model."""


PerModel = Annotated[tuple[T, ...], _PerModel()]
"""One value for every model; written as one for all, a list in their order, or a map `{name: x, default: y}`."""


def _not_a_truth_value(value: Any) -> Any:
    """YAML reads `yes` and `on` as true, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]
Integer = Annotated[int, BeforeValidator(_not_a_truth_value)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_not_a_truth_value)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]


class Tensors:
    """Marks a parameter that is itself a set of tensors with the checkpoint's names: a path, or a dict in Python.

    Args:
        words: what it may be instead; none of these is a path, whatever lies in the folder.
    """

    def __init__(self, *words: str) -> None:
        self.words = frozenset(words)


def parameter(default: Any, description: str) -> Any:
    """Declare a parameter of a method: its default for every model, and a sentence that says what it does."""
    return Field(default=default, description=description)


def of_model(position: int, text: str) -> PydanticCustomError:
    """What a method's validator raises about one of the models, which only the recipe knows by name.

    Args:
        position: which model it is, from 0.
        text: what to say of it, as in "has no `gram`; measure it".
    """
    return PydanticCustomError("of_model", "model {number} {text}", {"number": position + 1, "text": text})


class Law(Enum):
    """A property that a method promises and that the tests hold it to."""

    COPIES = "merging copies of one model gives that model"
    ORDER = "the order of the models does not matter"
    ZERO_DELTAS = "models equal to the base give the base"
    SCALING = "task vectors k times as long give a merged task vector k times as long"


class Step(BaseModel):
    """Something that happens in a merge, with its parameters settled for a given number of models.

    Subclasses are final: one class, one file, named after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    """The docstring's formula, for terminals."""
    source: ClassVar[str]

    def ignoring(self, models: Sequence[int]) -> Self:
        """The same for a tensor that some models lack: their weight is 0.

        Args:
            models: positions of these models.

        Raises:
            InputError: if the method has no weight per model, or what is left cannot be merged.
        """
        weight = getattr(self, "weight", None)
        if not isinstance(weight, tuple):
            raise InputError(f"method {self.name} cannot leave a model out", "use on_missing: error or base")
        left = {name: getattr(self, name) for name in type(self).model_fields}
        left["weight"] = tuple(0.0 if i in models else w for i, w in enumerate(weight))
        try:
            return type(self).model_validate(left)
        except ValidationError as error:
            raise InputError(Problem(f"method {self.name}: {worded(item)}") for item in error.errors()) from None

    @classmethod
    def is_per_model(cls, name: str) -> bool:
        """Whether a parameter has a value for each model."""
        return any(isinstance(mark, _PerModel) for mark in cls.model_fields[name].metadata)

    @classmethod
    def resolved(
        cls,
        models: Sequence[str],
        rule: Mapping[str, Any] = MappingProxyType({}),
        own: Sequence[Mapping[str, Any]] = (),
        common: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """Settle every parameter for every model.

        Args:
            models: their names.
            rule: parameters as a person wrote them in a rule; the strongest.
            own: for each model, the parameters that stand beside its path; the next.
            common: the recipe's `parameters`; the last before the method's defaults.

        Raises:
            InputError: naming the parameter, the model and the value.

        Example:
            >>> from weft.algorithms.linear import Linear
            >>> Linear.resolved(["a", "b"], rule={"weight": {"b": 3}}, common={"weight": 2}).weight
            (2.0, 3.0)
        """
        settled: dict[str, Any] = {}
        for name, info in cls.model_fields.items():
            written = [layer[name] for layer in (rule, common) if name in layer]
            if not cls.is_per_model(name):
                settled[name] = next(iter(written), info.default)
                continue
            beside = {model: values[name] for model, values in zip(models, own) if name in values}
            layers = (_spread(name, rule, models), beside, _spread(name, common, models))
            settled[name] = tuple(next((known[m] for known in layers if m in known), info.default) for m in models)
        try:
            return cls.model_validate(settled)
        except ValidationError as error:
            told = (cls._problem(models, item, settled) for item in error.errors())
            raise InputError(dict.fromkeys(told)) from None

    @classmethod
    def _problem(cls, models: Sequence[str], item: Any, settled: Mapping[str, Any]) -> Problem:
        path, text = item["loc"], worded(item)
        if not path:
            if item["type"] == "of_model":
                text = f"model {models[item['ctx']['number'] - 1]!r} {item['ctx']['text']}"
            what, _, remedy = text.partition("; ")
            return Problem(f"method {cls.name}: {what}", remedy or f"see `weft methods {cls.name}`")
        value, of = item["input"], ""
        if len(path) > 1 and cls.is_per_model(path[0]) and settled[path[0]] != (value,) * len(models):
            of = f" of model {models[path[1]]!r}"
        return Problem(f"method {cls.name}: {path[0]}{of} is {value!r}; it {text}", f"see `weft methods {cls.name}`")


class Method(Step, ABC):
    """A merge method: a step that makes one model of several."""

    TOLD: ClassVar = ("name", "title", "formula", "source", "needs_base", "laws")
    """What a method's class must say of itself."""

    needs_base: ClassVar[bool]
    """Whether it cannot do without a base, whatever its parameters are; see `wants_base`."""
    models: ClassVar[range] = range(1, 1 << 16)
    """How many models it can merge; a base is not one of them."""
    laws: ClassVar[Mapping[Law, Mapping[str, Any]]]
    """The laws that hold, each with the parameters under which it does (empty: the defaults)."""

    @property
    def wants_base(self) -> bool:
        """Whether it cannot do without a base, with these parameters."""
        return self.needs_base

    @classmethod
    def check_count(cls, models: Sequence[str]) -> None:
        """Refuse a number of models that it cannot merge.

        Args:
            models: their names.

        Raises:
            InputError: naming both numbers.

        Example:
            >>> from weft.algorithms.linear import Linear
            >>> Linear.check_count(["a", "b"])
        """
        if len(models) not in cls.models:
            given = f"{len(models)} ({', '.join(models)})"
            beside = "; the base is none of them" if cls.needs_base else ""
            what = f"method {cls.name} merges {cls.counted()}, not {given}"
            raise InputError(what, f"name {cls.counted()}{beside}")

    @classmethod
    def counted(cls) -> str:
        """In words: how many models it merges.

        Example:
            >>> from weft.algorithms.linear import Linear
            >>> Linear.counted()
            'one or more models'
        """
        words = ("no", "one", "two", "three", "four")
        least = words[cls.models.start] if cls.models.start < len(words) else str(cls.models.start)
        if len(cls.models) == 1:
            return f"exactly {least} model{'s' if cls.models.start > 1 else ''}"
        return f"{least} or more models"

    @abstractmethod
    def program(self) -> Program:
        """What the engine shall run."""


def _spread(name: str, layer: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """What one layer says about a per-model parameter: the models it covers, and with what."""
    if name not in layer:
        return {}
    value = layer[name]
    value = value.tolist() if hasattr(value, "tolist") else value  # an array of torch or numpy
    if isinstance(value, (list, tuple)):
        if len(value) != len(models):
            what = f"{name}: {len(value)} value(s) for {len(models)} model(s)"
            raise InputError(what, "give one value, or one for each model")
        return dict(zip(models, value, strict=True))
    if not isinstance(value, Mapping) or is_tensor_dict(value):
        return dict.fromkeys(models, value)
    for stranger in value.keys() - {*models, "default"}:
        remedy = nearest(str(stranger), models) or f"the models are {', '.join(models)}"
        raise InputError(f"{name}: no model is called {stranger!r}", remedy)
    return {model: value.get(model, value.get("default")) for model in models if model in value or "default" in value}


def is_tensor_dict(value: object) -> bool:
    """Whether a parameter's value is a dict of tensors rather than a map from model names."""
    return isinstance(value, Mapping) and bool(value) and all(hasattr(item, "shape") for item in value.values())
