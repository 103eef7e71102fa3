"""What must become of every tensor of a case, worked out from the case alone: an independent and simple plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import weft
from tests.long.bounded import DOUBLE, SINGLE, Precision
from tests.long.cases import Array, Auxiliary, Case, Model, Rule, is_float
from weft.algorithms.chain import Chain
from weft.algorithms.correction import Correction
from weft.algorithms.method import Method
from weft.algorithms.program import Program
from weft.algorithms.sparsifier import Sparsifier

Beside = Array | tuple[Array | None, ...] | None
"""This tensor in what is given beside the models: one, or one for each model; None where there is none."""


@dataclass(frozen=True, eq=False)
class Copy:
    """An output that is one input's tensor.

    Attributes:
        names: of the output.
        values: float64, or integers as they are stored.
        dtype: of the output.
    """

    names: tuple[str, ...]
    values: Array
    dtype: str


@dataclass(frozen=True, eq=False)
class Job:
    """An output that is merged.

    Attributes:
        names: of the output, in order; the first is what the tensor is called where tensors are ordered by name, so
            that nothing depends on the order in a file.
        dtype: of the output.
        method: with all its parameters.
        program: how the method computes it; a model that lacks the tensor has no weight there.
        precision: of the arithmetic.
        base: float64, if there is one.
        tuned: float64, one for each model; of a model that lacks the tensor the base's, or zeros.
        beside: the tensors that are parameters, by the names under which its functions ask for them: one, or one for
            each model, None where a whole step finds none.
        absent: positions of models that lack the tensor.
        before: what happens to the task vectors first.
        after: what happens to the merged tensor.
    """

    names: tuple[str, ...]
    dtype: str
    method: Method
    program: Program
    precision: Precision
    base: Array | None
    tuned: tuple[Array, ...]
    beside: Mapping[str, Beside]
    absent: tuple[int, ...]
    before: Sparsifier | None = None
    after: Correction | None = None

    @property
    def name(self) -> str:
        """The tensor's own name."""
        return self.names[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.tuned[0].shape

    @property
    def width(self) -> int:
        """Parameters of a row; one of no dimension is a row of its own."""
        return self.shape[-1] if self.shape else 1


def plan(case: Case) -> list[Copy | Job]:
    """What becomes of every tensor that is not dropped."""
    made = (_made(case, group) for group in _groups(case))
    return [item for item in made if item is not None]


def settled(case: Case, kind: type[Method], rule: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter's value, or one for each model: a rule's before a model's own, before the recipe's, before the
    default.
    """
    result: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        if not kind.is_per_model(name):
            result[name] = rule.get(name, case.parameters.get(name, info.default))
            continue
        layers = [_spread(case, rule, name), {m.name: m.own[name] for m in case.models if name in m.own}]
        layers += [_spread(case, case.parameters, name), dict.fromkeys(case.names, info.default)]
        result[name] = tuple(next(layer[m] for layer in layers if m in layer) for m in case.names)
    return result


def _spread(case: Case, layer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What one layer says for each model: nothing, one value, a list, or a map with a default."""
    if name not in layer:
        return {}
    value = layer[name]
    if isinstance(value, list):
        return dict(zip(case.names, value, strict=True))
    if not isinstance(value, dict):
        return dict.fromkeys(case.names, value)
    return {m: value.get(m, value.get("default")) for m in case.names if m in value or "default" in value}


def _groups(case: Case) -> Iterator[tuple[str, ...]]:
    """Names that are one tensor, each group once."""
    names = dict.fromkeys(name for model in case.all for name in model.tensors)
    tied = {alias: first for model in case.all for alias, first in model.tied.items()}
    for name in names:
        if name not in tied:
            yield (name, *(alias for alias, first in tied.items() if first == name))


def _made(case: Case, group: tuple[str, ...]) -> Copy | Job | None:
    rule = case.rule_of(group[0])
    use = rule.use if rule else None
    outputs = tuple(name for name in group if name in case.reference.tensors) or group
    if use == "drop":
        return None
    if use:
        return _copy(case, outputs, group, next(model for model in case.all if model.name == use))
    found = [model for model in case.all if group[0] in model.tensors]
    if not is_float(found[0].tensors[group[0]]):
        return _copy(case, outputs, group, found[0])
    if case.on_missing == "base" and len(found) < len(case.all):
        assert case.base is not None
        return _copy(case, outputs, group, case.base)
    return _job(case, outputs, group, rule)


def _output_dtype(case: Case, group: Sequence[str], lender: Model) -> str:
    """As the recipe says, else as the reference stores it, else as the lender does."""
    if not is_float(lender.tensors[group[0]]):
        return lender.tensors[group[0]].dtype.name
    if "dtype" in case.output:
        return str(case.output["dtype"])
    has = group[0] in case.reference.tensors
    return (case.reference if has else lender).lends(group[0])


def _copy(case: Case, outputs: tuple[str, ...], group: Sequence[str], model: Model) -> Copy:
    return Copy(outputs, model.values[group[0]], _output_dtype(case, group, model))


def _job(case: Case, outputs: tuple[str, ...], group: Sequence[str], rule: Rule | None) -> Job:
    name = group[0]
    base = case.base if case.base and name in case.base.tensors else None
    absent = tuple(i for i, model in enumerate(case.models) if name not in model.tensors)
    holders = [*([base] if base else []), *(m for m in case.models if name in m.tensors)]
    chain = chained(case, rule)
    shape = holders[0].tensors[name].shape
    instead = base.values[name] if base else np.zeros(shape)
    program = (chain.ignoring(absent) if absent else chain).program()
    return Job(
        names=tuple(sorted(outputs)),
        dtype=_output_dtype(case, (name,), holders[0]),
        method=chain.method,
        program=program,
        precision=DOUBLE if any(m.seen(name) == "float64" for m in holders) else SINGLE,
        base=base.values[name] if base else None,
        tuned=tuple(m.values[name] if name in m.tensors else instead for m in case.models),
        beside=dict(_beside(program, group, absent, shape)),
        absent=absent,
        before=chain.before,
        after=chain.after,
    )


def chained(case: Case, rule: Rule | None) -> Chain:
    """The method, with what happens before and after it, as a rule or the recipe asks for them.

    Raises:
        ValueError, weft.InputError: if there is no such thing.
    """
    kind = weft.method((rule and rule.method) or case.method)
    own = rule.parameters if rule else {}
    method = kind.model_validate({key: bare(value) for key, value in settled(case, kind, own).items()})
    first, last = (_stepped(case, case.step(place, rule)) for place in ("before", "after"))
    return Chain(method, first, last)  # type: ignore[arg-type]


def _stepped(case: Case, step: Mapping[str, Any] | None) -> Method | None:
    if step is None:
        return None
    kind = weft.method(step["method"])
    alone = replace(case, models=[replace(model, own={}) for model in case.models], parameters={})
    values = settled(alone, kind, {name: value for name, value in step.items() if name != "method"})
    return kind.model_validate({key: bare(value) for key, value in values.items()})


def bare(value: Any) -> Any:
    """A parameter as Python's users give it."""
    if isinstance(value, tuple):
        return tuple(bare(item) for item in value)
    return value.tensors if isinstance(value, Auxiliary) else value


def _beside(
    program: Program, group: Sequence[str], absent: Sequence[int], shape: tuple[int, ...]
) -> Iterator[tuple[str, Beside]]:
    """This tensor in everything that is tensors: 1 where nobody gave any, 0 for a model that is left out."""
    for argument, source in program.sources.items():
        seen = program.beside.get(argument)
        suffix, spread = (seen.suffix if seen else ""), program.taken(argument).spread

        def one(given: Any, i: int = -1) -> Array | None:
            if given is None and not seen:
                return np.ones(shape)
            if i in absent and not seen:
                return np.zeros(shape)
            found = next((given[name + suffix] for name in group if given and name + suffix in given), None)
            numbers = None if found is None else found.astype(np.float64)
            return np.broadcast_to(numbers, shape) if spread and numbers is not None else numbers

        yield argument, tuple(one(g, i) for i, g in enumerate(source)) if isinstance(source, tuple) else one(source)
