"""What a soak case is: checkpoints as they are stored, and a recipe over them. Data only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
State = dict[str, Array]

Step = Mapping[str, Any]
"""A step before or after a method: its name under `method`, and its parameters."""

FLOATS = ("float32", "float16", "bfloat16", "float64")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


def is_float(array: Array) -> bool:
    """Whether these are numbers that a merge computes with; ml_dtypes' types are of numpy's kind `V`."""
    return array.dtype.kind == "f" or array.dtype.name in (*FLOATS, *FLOAT8)


@dataclass(frozen=True)
class Model:
    """One checkpoint as it is stored.

    Attributes:
        name: what the recipe calls it; `base` for the base.
        tensors: by the names that the merge shall see; float8 tensors hold codes.
        scales: for a float8 tensor what multiplies it.
        tied: for a name that is another's tensor, that other one.
        form: how it is given: one of `saving.FORMS`.
        stored_names: for each tensor the name that it has in the file.
        rename: what the recipe must say about that.
        own: parameters beside its path.
    """

    name: str
    tensors: State
    scales: State = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    form: str = "file"
    stored_names: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> State:
        """The numbers that a merge sees: float64, but exact; integers as they are."""
        return {name: self._value(name) for name in self.tensors}

    def lends(self, name: str) -> str:
        """The number format that an output made from this tensor takes over; bfloat16 holds all of a float8."""
        dtype = self.tensors[name].dtype.name
        return "bfloat16" if dtype in FLOAT8 else dtype

    def seen(self, name: str) -> str:
        """The format in which the merge reads it: a scaled float8 is a float32."""
        dtype = self.tensors[name].dtype.name
        return "float32" if dtype in FLOAT8 else dtype

    def _value(self, name: str) -> Array:
        stored = self.tensors[name]
        if not is_float(stored):
            return stored
        numbers = stored.astype(np.float64)
        if stored.dtype.name not in FLOAT8:
            return numbers
        scale = self.scales.get(name, np.ones((), np.float32)).astype(np.float32)
        return (numbers.astype(np.float32) * scale).astype(np.float64)  # one float32 product, as documented


@dataclass(frozen=True)
class Rule:
    """One rule of a recipe.

    Attributes:
        match: a pattern.
        use: a model's name, `base` or `drop`; None to merge.
        method: another method; None for the recipe's.
        parameters: as written.
        before, after: steps; `none` for none, and None where the recipe's hold.
    """

    match: str
    use: str | None = None
    method: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    before: Step | str | None = None
    after: Step | str | None = None

    def matches(self, name: str) -> bool:
        """Whether it decides this tensor, if none before it does."""
        if self.match.startswith("re:"):
            return re.fullmatch(self.match[3:], name) is not None
        return fnmatchcase(name, self.match)

    def written(self) -> dict[str, Any]:
        """As in a recipe."""
        parts = {"match": self.match, "use": self.use, "method": self.method, "parameters": dict(self.parameters)}
        parts |= {"before": self.before, "after": self.after}
        return {key: value for key, value in parts.items() if value}


@dataclass(frozen=True)
class Knobs:
    """What must not change a byte.

    Attributes:
        memory: bytes.
        workers: threads.
    """

    memory: int
    workers: int


@dataclass(frozen=True)
class Case:
    """Everything about one case.

    Attributes:
        seed, number: of which it is made.
        method: the recipe's.
        base: if the recipe has one.
        models: in order.
        parameters: the recipe's.
        rules: in order.
        output: the recipe's.
        on_missing: the recipe's.
        knobs: the merge is done with each of them.
        as_file: whether the output is one file rather than a folder.
        before, after: the recipe's steps.
    """

    seed: int
    number: int
    method: str
    base: Model | None
    models: Sequence[Model]
    parameters: Mapping[str, Any]
    rules: Sequence[Rule]
    output: Mapping[str, Any]
    on_missing: str
    knobs: Sequence[Knobs]
    as_file: bool
    before: Step | None = None
    after: Step | None = None

    @property
    def all(self) -> list[Model]:
        """The reference first."""
        return [*([self.base] if self.base else []), *self.models]

    @property
    def reference(self) -> Model:
        """Whoever lends number formats."""
        return self.base or self.models[0]

    @property
    def names(self) -> list[str]:
        """What the models are called."""
        return [model.name for model in self.models]

    def step(self, place: str, rule: Rule | None) -> Step | None:
        """What happens `before` or `after`: as the rule says, if it says anything."""
        own = getattr(rule, place) if rule else None
        step: Step | str | None = getattr(self, place) if own is None else own
        return None if isinstance(step, str) else step

    def rule_of(self, name: str) -> Rule | None:
        """The rule that decides a tensor."""
        return next((rule for rule in self.rules if rule.matches(name)), None)


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """A parameter that is itself tensors: a Fisher, given signs. In a recipe it is a dict or a file.

    Attributes:
        tensors: any number format.
        as_file: whether it is written to one.
    """

    tensors: State
    as_file: bool

    def __repr__(self) -> str:
        return f"<{'a file' if self.as_file else 'a dict'} of {len(self.tensors)} tensors>"
