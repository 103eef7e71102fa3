"""What a merge method is: parameters declared once, and a program that the engine runs.

A method is a frozen pydantic model. Its fields are its parameters, so that recipes, the command line, `weft methods`
and the documentation read them from one place. Its `program` says, as data, which scalar function computes one
parameter and which statistics that function needs; how tensors are streamed to it is the engine's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError, Problem, nearest
from weft.kernels.element import Scalar

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
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), BeforeValidator(_not_a_truth_value)]


class Tensors:
    """Marks a parameter that is itself a set of tensors with the checkpoint's names: a path, or a dict in Python."""


def parameter(default: Any, description: str) -> Any:
    """Declare a parameter of a method: its default for every model, and a sentence that says what it does."""
    return Field(default=default, description=description)


class Law(Enum):
    """A property that a method promises and that the tests hold it to."""

    COPIES = "merging copies of one model gives that model"
    ORDER = "the order of the models does not matter"
    ZERO_DELTAS = "models equal to the base give the base"
    SCALING = "task vectors k times as long give a merged task vector k times as long"


@dataclass(frozen=True)
class Total:
    """Fold: the sum over the scope.

    Attributes:
        finish: from the sum, the number of parameters in the scope and, with `by`, that parameter's value to the
            result.
        by: a parameter of the method that `finish` needs.
    """

    finish: Scalar
    by: str = ""


@dataclass(frozen=True)
class Rank:
    """Fold: the m-th smallest value in the scope, exactly.

    Attributes:
        rank: from the number of parameters in the scope and the value of the parameter `by` to m; 0 gives 0.
        by: the method's parameter that decides the rank.
    """

    rank: Scalar
    by: str


@dataclass(frozen=True)
class Share:
    """Fold: the value at which the largest values hold a share of the sum of squares of the scope, exactly.

    Attributes:
        by: the method's parameter that is the share.
    """

    by: str


@dataclass(frozen=True)
class Statistic:
    """A number about a whole scope that the method's scalar functions may ask for by name.

    Attributes:
        name: the argument name under which it is handed on.
        expression: what is computed for every parameter; it may ask for statistics declared before this one.
        fold: how the scope's values become one number.
        each: computed once for each model, `tuned` and every per-model argument being that model's own number;
            the result is then per model as well.
        known: the auxiliary input, and the key of its metadata, that may hold the result already.
        double: computed in float64 whatever the inputs are, where squares of tiny numbers would vanish.
    """

    name: str
    expression: Scalar
    fold: Total | Rank | Share
    each: bool = False
    known: tuple[str, str] | None = None
    double: bool = False


@dataclass(frozen=True)
class Note:
    """Something worth telling, counted while merging.

    Attributes:
        happens: a scalar function that says whether it happens to a parameter.
        text: the sentence, with `{count}`.
    """

    happens: Scalar
    text: str


@dataclass(frozen=True)
class Program:
    """How a method computes, as data.

    Attributes:
        element: the scalar function of one parameter.
        functions: the `@element` functions that it receives as arguments: what the method's options choose.
        statistics: what it needs to know about the scope, in order.
        values: numbers derived from the parameters, by argument name: one, or one for each model.
        auxiliary: argument names fed by tensors beside the checkpoints: for each the source, or one for each model;
            a None among them stands for the number 1.
        whole_model: whether the scope is all tensors that are merged with this method, or each on its own.
        note: what to count and report.
        remarks: what a person should know about these parameters.
        nonnegative: auxiliary arguments that may not hold negative numbers.
    """

    element: Scalar
    functions: Mapping[str, Scalar] = field(default_factory=dict)
    statistics: tuple[Statistic, ...] = ()
    values: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    whole_model: bool = False
    note: Note | None = None
    remarks: tuple[str, ...] = ()
    nonnegative: frozenset[str] = frozenset()


class Method(BaseModel, ABC):
    """A merge method with its parameters settled, for a given number of models.

    Subclasses are final: one class, one file, named after the method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    """The docstring's formula, for terminals."""
    source: ClassVar[str]
    needs_base: ClassVar[bool]
    laws: ClassVar[Mapping[Law, Mapping[str, Any]]]
    """The laws that hold, each with the parameters under which it does (empty: the defaults)."""

    @abstractmethod
    def program(self) -> Program:
        """What the engine shall run."""

    def ignoring(self, models: Sequence[int]) -> Method:
        """The same method for a tensor that some models lack: their weight is 0.

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
    ) -> Method:
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
            what, _, remedy = text.partition("; ")
            return Problem(f"method {cls.name}: {what}", remedy or f"see `weft methods {cls.name}`")
        value, of = item["input"], ""
        if len(path) > 1 and cls.is_per_model(path[0]) and settled[path[0]] != (value,) * len(models):
            of = f" of model {models[path[1]]!r}"
        return Problem(f"method {cls.name}: {path[0]}{of} is {value!r}; it {text}", f"see `weft methods {cls.name}`")


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
