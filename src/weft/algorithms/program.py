"""What the engine runs for a method, as data: scalar functions, and the statistics and numbers that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

from weft.algorithms.whole import Beside, Whole
from weft.kernels.element import ElementError, Scalar

Number = float | tuple[float, ...]
"""One number, or one for each model."""

BEFORE = "before_"
"""What the names of a change begin with where they stand beside those of a method."""


@dataclass(frozen=True)
class Total:
    """Fold: the sum over the scope.

    Attributes:
        finish: from the sum, the number of parameters in the scope and, with `by`, that number to the result.
        by: one of the program's numbers, or an earlier statistic, which `finish` needs.
    """

    finish: Scalar
    by: str = ""

    def finished(self, total: float, count: int, *by: float) -> float:
        """The number, which arrays would take for NaN if it were None."""
        number: float | None = self.finish(total, count, *by)
        if number is None:
            raise ElementError(f"{self.finish.__name__} returns nothing", self.finish)
        return number


@dataclass(frozen=True)
class Rank:
    """Fold: the m-th smallest value in the scope, exactly.

    Attributes:
        rank: from the number of parameters in the scope and the number `by` to m; 0 gives 0.
        by: which of the program's numbers, or of the earlier statistics, decides the rank.
        signed: whether there may be negative values among them.
    """

    rank: Scalar
    by: str
    signed: bool = False


@dataclass(frozen=True)
class Share:
    """Fold: the value at which the largest values hold a share of the sum of squares of the scope, exactly.

    Attributes:
        by: which of the program's numbers is the share.
    """

    by: str


@dataclass(frozen=True)
class Extreme:
    """Fold: the smallest or the largest value in the scope."""

    which: Literal["smallest", "largest"]


@dataclass(frozen=True)
class Gram:
    """Fold: the inner products of the models' values, in float64, and what follows from them.

    Attributes:
        finish: from the Gram matrix (`gram[i][j]`, the sum over the scope of what the models i and j have) and all
            numbers known to one number for each model.
    """

    finish: Callable[[Sequence[Sequence[float]], Mapping[str, Number]], tuple[float, ...]]


Fold = Total | Rank | Share | Extreme | Gram


@dataclass(frozen=True)
class Statistic:
    """A number about a whole scope that the method's scalar functions may ask for by name.

    Attributes:
        name: the argument name under which it is handed on.
        expression: what is computed for every parameter; it may ask for statistics declared before this one.
        fold: how the scope's values become one number.
        each: computed once for each model, `tuned` and every per-model argument being that model's own number;
            the result is then per model as well.
        among: with `each`: the expression sees the numbers of all models, and `own`, the position (0.0, 1.0, ...) of
            the one that it is about.
        by_tensor: for each tensor on its own, even if the program's scope is the whole model.
        known: the auxiliary input, and the key of its metadata, that may hold the result already.
        double: computed in float64 whatever the inputs are, where squares of tiny numbers would vanish.
    """

    name: str
    expression: Scalar
    fold: Fold
    each: bool = False
    among: bool = False
    by_tensor: bool = False
    known: tuple[str, str] | None = None
    double: bool = False


@dataclass(frozen=True)
class Numbers:
    """What is known of one tensor, for a `Derived`."""

    name: str
    shape: tuple[int, ...]
    values: Mapping[str, Number]

    def of(self, name: str, model: int) -> float:
        """A model's own number."""
        value = self.values[name]
        return value[model] if isinstance(value, tuple) else value

    def each(self, name: str) -> tuple[float, ...]:
        """Every model's own number, of something that has one for each."""
        value = self.values[name]
        return value if isinstance(value, tuple) else (value,)

    @property
    def size(self) -> int:
        """How many parameters the tensor has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Derived:
    """A number for every tensor that follows from the numbers of all of them, with no look at the tensors.

    Attributes:
        name: the argument name under which it is handed on.
        compute: from what is known of each tensor of the scope, in order of their names, to each one's number, or its
            numbers for the models.
    """

    name: str
    compute: Callable[[Sequence[Numbers]], Sequence[Number]]


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
class Change:
    """What happens to each task vector before the models are merged, as data.

    Its functions see one model at a time: `base`, that model's value `tuned`, its own of what is given for each model.
    Its names are its own: what they stand for is hidden from the method that comes after, and the other way round.

    Attributes:
        element: from the parameter in the base and in the model to what becomes of the difference. Beside what other
            scalar functions may ask for: `draw`, uniform in [0, 1), which depends on nothing but the seed, the model's
            position, the tensor's name and the parameter's index; `rank`, its place in its row (from 0) in the order
            of `ranking`, of equals the earlier one first, and `length`, how many parameters the row has.
        ranking: what is put in order, from `base` and `tuned`; not negative.
        functions, statistics, values, auxiliary, whole_model: as those of a program.
        at_base: those of `auxiliary` that are about the base, and not about the model that they are given for.
        spread: those of `auxiliary` in which a tensor without dimensions stands for its number in every place.
        seed: what `draw` depends on.
    """

    element: Scalar
    ranking: Scalar | None = None
    functions: Mapping[str, Scalar] = field(default_factory=dict)
    statistics: tuple[Statistic | Derived, ...] = ()
    values: Mapping[str, Number] = field(default_factory=dict)
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    whole_model: bool = False
    at_base: frozenset[str] = frozenset()
    spread: frozenset[str] = frozenset()
    seed: int = 0


@dataclass(frozen=True)
class Taken:
    """How tensors beside a model are to be taken.

    Attributes:
        at_base: they are about the base.
        spread: a tensor without dimensions stands for its number in every place.
    """

    at_base: bool = False
    spread: bool = False


@dataclass(frozen=True)
class Stage:
    """A statistic in the order in which a program asks for it.

    Attributes:
        statistic: what is asked, under the name that its result gets.
        prefix: what the names that its functions ask for begin with: empty, or `BEFORE`.
        by_tensor: whether it is about each tensor on its own.
    """

    statistic: Statistic | Derived
    prefix: str
    by_tensor: bool


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
        relative: whether only differences to the base matter: f(base, tuned) = base + f(0, tuned - base). Changed task
            vectors are then handed on as they are, and not added to a base in which their last digits would be lost.
        change: what happens to each task vector before.
        whole: what computes a tensor instead of `element`, where it applies.
        after: what corrects a merged tensor, where it applies.
        beside: those of `auxiliary` that only `whole` looks at, and how they differ from the models' tensors.
    """

    element: Scalar
    functions: Mapping[str, Scalar] = field(default_factory=dict)
    statistics: tuple[Statistic | Derived, ...] = ()
    values: Mapping[str, Number] = field(default_factory=dict)
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    whole_model: bool = False
    note: Note | None = None
    remarks: tuple[str, ...] = ()
    nonnegative: frozenset[str] = frozenset()
    relative: bool = False
    change: Change | None = None
    whole: Whole | None = None
    after: Whole | None = None
    beside: Mapping[str, Beside] = field(default_factory=dict)

    @property
    def is_about_the_model(self) -> bool:
        """Whether a statistic ties all tensors together."""
        return self.whole_model or (self.change is not None and self.change.whole_model)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All statistics: those of the change, then the method's own."""
        made: list[Stage] = []
        parts: list[tuple[Change | Program, str]] = [(self.change, BEFORE)] if self.change else []
        for part, prefix in (*parts, (self, "")):
            for statistic in part.statistics:
                alone = not part.whole_model or (isinstance(statistic, Statistic) and statistic.by_tensor)
                named = replace(statistic, name=prefix + statistic.name) if prefix else statistic
                made.append(Stage(named, prefix, alone and not isinstance(statistic, Derived)))
        return tuple(made)

    @cached_property
    def numbers(self) -> Mapping[str, Number]:
        """All numbers that are known before anything is read."""
        return {**self.values, **_prefixed(self.change.values if self.change else {})}

    @cached_property
    def all_functions(self) -> Mapping[str, Scalar]:
        """All functions that scalar functions receive."""
        return {**self.functions, **_prefixed(self.change.functions if self.change else {})}

    @cached_property
    def sources(self) -> Mapping[str, Any]:
        """All sources of tensors beside the checkpoints."""
        return {**self.auxiliary, **_prefixed(self.change.auxiliary if self.change else {})}

    def taken(self, source: str) -> Taken:
        """How the tensors of one of `sources` are to be taken."""
        name, change = source.removeprefix(BEFORE), self.change
        if change is None or not source.startswith(BEFORE):
            return Taken()
        return Taken(at_base=name in change.at_base, spread=name in change.spread)


def _prefixed(named: Mapping[str, Any]) -> dict[str, Any]:
    return {BEFORE + name: value for name, value in named.items()}
