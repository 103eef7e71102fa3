"""Draws a whole case from its seed and number.

What decides which machine code is compiled (method, options, number of models, number formats) comes from a stream of
its own that several cases in a row share: compiling takes a hundred times as long as merging something this small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import weft
from tests.long import values
from tests.long.cases import FLOAT8, FLOATS, Case, Knobs, Model, Rule, State, Step, is_float
from tests.long.jobs import Job, chained, plan
from tests.long.parameters import Beside, Tastes, draw_numbers, draw_options, draw_own, draw_step, draw_tensors
from tests.long.saving import FORMS
from tests.long.values import Rng, Shape
from weft.algorithms.chain import Chain
from weft.algorithms.correction import Correction
from weft.algorithms.method import Method
from weft.algorithms.sparsifier import Sparsifier

SHARED = 6
"""Cases in a row that share what is compiled."""

_ROOM = 300_000
"""Elements of all models together; the reference is slow."""

_COUNTS = (1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 6, 8, 12)
_NAMES = (
    "embed.weight", "layers.0.attn.weight", "layers.0.norm.gain", "layers.1.attn.weight", "layers.1.mlp.bias",
    "layers.10.mlp.weight", "layers.2.mlp.bias", "head.bias", "norm.scale_factor", "bn.running_var", "Zuletzt",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "base_model.")
_PATTERNS = ("*attn*", "*.bias", "re:layers\\.[01]\\..*", "embed*", "Zuletzt", "*", "layers.1*", "re:.*(norm|bn).*")


@dataclass(frozen=True)
class _Skeleton:
    """What is the same in all models: which tensors there are.

    Attributes:
        shapes: of floats.
        integers: buffers.
        tied: for a name that is another's tensor, that other one.
        odd: tensors that are stored otherwise than the rest.
    """

    shapes: Mapping[str, Shape]
    integers: State
    tied: Mapping[str, str]
    odd: frozenset[str]


METHODS = tuple(weft.methods())
"""Every method that there is, those of other packages too; what has no reference is named by the soak."""


def draw(seed: int, number: int) -> Case:
    """The case of this seed and number, the same on every machine."""
    for attempt in range(1000):
        group = [seed, number // SHARED, 1, attempt // 20]  # options that nothing goes with are drawn anew
        tastes = Tastes(np.random.default_rng(group), np.random.default_rng([seed, number, 2, attempt]))
        case = _drawn(seed, number, tastes)
        if case is not None:
            return case
    raise AssertionError(f"no valid case in a thousand attempts: seed {seed}, case {number}")


def _drawn(seed: int, number: int, tastes: Tastes) -> Case | None:
    kind = weft.method(METHODS[tastes.options.integers(len(METHODS))])
    count = _COUNTS[tastes.options.integers(len(_COUNTS))]
    count = count if count in kind.models else kind.models[0]
    called = [f"expert-{k}" for k in range(count)]
    skeleton = _skeleton(tastes.numbers, _ROOM // (count + 1))
    options = draw_options(kind, tastes.options)
    needs_base = kind.needs_base or "changes" in options.values() or "base" in options.values()
    based = needs_base or tastes.options.random() < 0.4
    base, models = _models(called, skeleton, tastes, based)
    beside = Beside(skeleton.shapes, skeleton.tied, options.get("transposed", ()))
    options |= draw_tensors(kind, beside, count, tastes, 0.3 if issubclass(kind, Sparsifier) else 0.9)
    case = Case(
        seed=seed,
        number=number,
        method=kind.name,
        base=base,
        models=[replace(model, own=draw_own(kind, tastes.numbers)) for model in models],
        parameters={**options, **draw_numbers(kind, called, tastes.numbers, 0.6)},
        rules=_rules(kind.name, called, based, beside, tastes),
        output=_output(tastes),
        on_missing="error",
        knobs=_knobs(tastes.numbers),
        as_file=bool(tastes.numbers.random() < 0.2),
        before=_step(Sparsifier, called, beside, tastes) if based and tastes.options.random() < 0.3 else None,
        after=_step(Correction, called, beside, tastes) if based and tastes.options.random() < 0.15 else None,
    )
    case = _with_missing(case, tastes.numbers)
    return case if _is_valid(case) else None


def _step(family: type[Method], called: list[str], beside: Beside, tastes: Tastes) -> Step:
    kinds = [kind for kind in map(weft.method, METHODS) if issubclass(kind, family)]
    return draw_step(kinds[tastes.options.integers(len(kinds))], beside, called, tastes)  # type: ignore[arg-type]


def _skeleton(rng: Rng, room: int) -> _Skeleton:
    names = list(rng.permutation(_NAMES)[: rng.integers(1, len(_NAMES) + 1)])
    shapes: dict[str, Shape] = {}
    for name in map(str, names):
        shapes[name] = values.draw_shape(rng, room)
        room -= int(np.prod(shapes[name]))
    integers = {"position_ids": values.draw_integers(rng, (1, 40))} if rng.random() < 0.3 else {}
    large = [n for n, shape in shapes.items() if n.endswith("weight") and len(shape) > 1 and np.prod(shape) >= 30]
    tied = {"lm_head.weight": large[0]} if large and rng.random() < 0.3 else {}
    odd = frozenset(name for name in shapes if rng.random() < 0.2) if rng.random() < 0.5 else frozenset()
    return _Skeleton(shapes, integers, tied, odd)


def _formats(count: int, rng: Rng) -> tuple[list[str], list[str]]:
    """For each input its number format, and that of the odd tensors."""
    one = FLOATS[rng.integers(len(FLOATS))] if rng.random() < 0.9 else FLOAT8[rng.integers(2)]
    mixed = rng.random() < 0.4
    pool = (*FLOATS[:3], *FLOATS[:3], "float64", *FLOAT8)
    usual = [str(pool[rng.integers(len(pool))]) if mixed else one for _ in range(count)]
    return usual, [str(FLOATS[rng.integers(3)])] * count


def _models(called: list[str], skeleton: _Skeleton, tastes: Tastes, based: bool) -> tuple[Model | None, list[Model]]:
    """The base, if one is given, and models that descend from it."""
    rng = tastes.numbers
    usual, odd = _formats(len(called) + 1, tastes.options)
    start = {name: values.draw_base(rng, shape) for name, shape in skeleton.shapes.items()}
    changes = {name: values.draw_change(rng, shape) for name, shape in skeleton.shapes.items()}
    copies = rng.random() < 0.15  # models that are equal: everything ties
    made = []
    for k, name in enumerate(["base", *called]):
        fresh = np.random.default_rng(rng.integers(2**32)) if not (copies and k > 1) else np.random.default_rng(5)
        numbers = {n: t + changes[n](fresh) if k else t for n, t in start.items()}
        numbers = {n: np.abs(t) if n.endswith("running_var") else t for n, t in numbers.items()}
        formats = {n: odd[k] if n in skeleton.odd else usual[k] for n in start}
        made.append(_model(name, numbers, formats, skeleton, rng, is_reference=k == (0 if based else 1)))
    return (made[0] if based else None), made[1:]


def _model(
    name: str, numbers: State, formats: Mapping[str, str], skeleton: _Skeleton, rng: Rng, is_reference: bool
) -> Model:
    tensors: State = {}
    scales: State = {}
    tied = skeleton.tied
    for tensor, value in numbers.items():
        dtype, matrix = formats[tensor], value.ndim == 2 and value.size > 0 and tensor not in tied.values()
        if dtype in FLOAT8 and matrix and tensor.endswith("weight"):
            scales[tensor] = values.draw_scale(rng, value.shape)
            tensors[tensor] = values.stored(value / scales[tensor], dtype)
        else:
            tensors[tensor] = values.stored(value, "bfloat16" if dtype in FLOAT8 else dtype)
    tensors |= {alias: tensors[first] for alias, first in tied.items()}
    tensors |= skeleton.integers
    order = rng.permutation(len(tensors))
    shuffled = {list(tensors)[k]: list(tensors.values())[k] for k in order}
    form = FORMS[rng.integers(len(FORMS))]
    stored_names, rename = _stored_names(list(tensors), rng) if not is_reference else ({}, {})
    return Model(name, shuffled, scales, tied, form, stored_names, rename)


def _stored_names(names: list[str], rng: Rng) -> tuple[dict[str, str], dict[str, str]]:
    """Other names in the file: a stray prefix that Weft finds by itself, or what a `rename` settles."""
    way = rng.random()
    if way < 0.7:
        return {}, {}
    if way < 0.8:
        prefix = _PREFIXES[rng.integers(len(_PREFIXES))]
        return {name: prefix + name for name in names}, {}
    if way < 0.9 or not any("." in name for name in names):
        return {name: f"net/{name}" for name in names}, {"net/": ""}
    return {name: name.replace(".", "__") for name in names}, {"re:__": "."}


def _rules(method: str, called: list[str], based: bool, beside: Beside, tastes: Tastes) -> list[Rule]:
    """Up to three. A rule that merges by another method asks for other machine code, so that is drawn apart."""
    rules = []
    for _ in range(tastes.options.integers(4) if tastes.options.random() < 0.6 else 0):
        pattern = _PATTERNS[tastes.numbers.integers(len(_PATTERNS))]
        way = tastes.options.integers(4)
        uses = [*called, "drop", *(["base"] if based else [])]
        if way == 0:
            rules.append(Rule(pattern, use=str(uses[tastes.numbers.integers(len(uses))])))
        else:
            rules.append(_merging_rule(pattern, method if way < 3 else None, called, based, beside, tastes))
    return [rule for rule in rules if len(rule.written()) > 1]


def _merging_rule(
    pattern: str, method: str | None, called: list[str], based: bool, beside: Beside, tastes: Tastes
) -> Rule:
    """A rule with other parameters, another method or other steps; what needs Fishers or Gram matrices stays."""
    fitting = [n for n in METHODS if (based or not weft.method(n).needs_base) and n not in ("fisher", "regmean")]
    fitting = [n for n in fitting if len(called) in weft.method(n).models]
    name = method or str(fitting[tastes.options.integers(len(fitting))])
    kind = weft.method(name)
    options = draw_options(kind, tastes.options) if tastes.options.random() < 0.5 else {}
    options.pop("transposed", None)  # Gram matrices are drawn for the recipe's
    numbers = draw_numbers(kind, called, tastes.numbers, 0.5)
    before: Step | str | None = None
    if based and tastes.options.random() < 0.2:
        before = _step(Sparsifier, called, beside, tastes) if tastes.options.random() < 0.6 else "none"
    after = "none" if based and tastes.options.random() < 0.1 else None
    return Rule(pattern, None, None if method else name, {**options, **numbers}, before, after)


def _output(tastes: Tastes) -> dict[str, Any]:
    output: dict[str, Any] = {}
    if tastes.options.random() < 0.4:
        output["dtype"] = FLOATS[tastes.options.integers(len(FLOATS))]
    if tastes.numbers.random() < 0.4:
        output["shard_size"] = int(tastes.numbers.choice([1, 1000, 33_000, 200_000]))
    return output


def _knobs(rng: Rng) -> list[Knobs]:
    """Two ways to run the merge: as a person would, and narrow."""
    memory = int(rng.choice([2, 8, 30, 64])) * 10**6
    return [Knobs(2 * 2**30, int(rng.integers(1, 5))), Knobs(memory, int(rng.integers(1, 5)))]


def _with_missing(case: Case, rng: Rng) -> Case:
    """Some models lack a tensor, and the recipe says what to do."""
    policy = str(rng.choice(["error", "base", "skip-model"], p=[0.7, 0.1, 0.2]))
    if policy == "error" or (policy == "base" and not case.base):
        return case
    tied = {name for model in case.models for pair in model.tied.items() for name in pair}
    merged = [n for n, t in case.reference.tensors.items() if is_float(t) and n not in tied]
    k = int(rng.integers(len(case.models)))
    model = case.models[k]
    lost = [n for n in merged if rng.random() < 0.3 and not ((rule := case.rule_of(n)) and rule.use)]
    if any(model.stored_names.values()) and not model.rename:
        return case  # a stray prefix is found only where the names fit otherwise
    kept = {name: tensor for name, tensor in model.tensors.items() if name not in lost}
    if "re:__" in model.rename and not any("." in name for name in kept):
        return case  # a change of names that changes none is an error
    lacking = replace(model, tensors=kept, scales={name: s for name, s in model.scales.items() if name in kept})
    return replace(case, models=[lacking if m is model else m for m in case.models], on_missing=policy)


def _is_valid(case: Case) -> bool:
    """Whether the recipe asks for something that can be done: the rest is tested elsewhere, by its messages."""
    try:
        chains = [chained(case, rule) for rule in (None, *case.rules) if not (rule and rule.use)]  # asked for or not
        items = plan(case)
    except (ValueError, weft.InputError):
        return False
    if case.base is None and any(map(_wants_base, chains)):
        return False
    held = all(len(item.absent) < len(item.tuned) for item in items if isinstance(item, Job))
    return bool(items) and held and _is_whole(case) and _is_fed([item for item in items if isinstance(item, Job)])


def _wants_base(chain: Chain) -> bool:
    whole = chain.program().whole
    return chain.needs_base or (whole is not None and "base" in whole.renamed.values())


def _is_fed(jobs: list[Job]) -> bool:
    """Whether what methods look at beside the models has something for one of the tensors that could use it."""
    could: dict[str, list[Job]] = {}
    for job in jobs:
        for name in job.program.beside if job.program.whole and job.tuned[0].size else ():
            if job.program.whole.applies(job.shape):
                could.setdefault(name, []).append(job)
    return all(any(_has(job.beside[name]) for job in found) for name, found in could.items())


def _has(values: Any) -> bool:
    return any(one is not None for one in values) if isinstance(values, tuple) else values is not None


def _is_whole(case: Case) -> bool:
    """Tied names are treated alike, every model holds something, and a reference that lends formats is there."""
    alike = all(case.rule_of(a) is case.rule_of(b) for m in case.models for a, b in m.tied.items())
    return alike and all(any(is_float(t) for t in model.tensors.values()) for model in case.all)
