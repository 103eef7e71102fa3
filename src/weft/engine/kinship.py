"""Why tensors are missing: another architecture, another number of layers. One sentence instead of a hundred."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.pipeline import SEPARATOR, part_of
from weft.engine.inputs import Inputs
from weft.errors import Problem, listed

_NUMBERED = re.compile(r"^(.*?[^.\d]\.)(\d+)\.")
_MEMBER = re.compile(r"^(.*[^.\d]\.)(\d+)\.")
"""What is numbered last: the experts of a layer, where `_NUMBERED` finds the layers of a model."""


def empty(inputs: Inputs) -> Iterator[Problem]:
    """Inputs that hold nothing."""
    for label, checkpoint in inputs.all():
        if not checkpoint.tensors:
            where = "" if label == checkpoint.label else f" ({checkpoint.label})"
            yield Problem(f"{label}{where} holds no tensors", "name the model that was meant")


def strangers(inputs: Inputs) -> Iterator[Problem]:
    """Models that share no tensor name with the reference."""
    (first, reference), *others = inputs.all()
    for label, checkpoint in others:
        if not checkpoint.tensors or not reference.tensors or checkpoint.tensors.keys() & reference.tensors.keys():
            continue
        if _is_pipeline(checkpoint) != _is_pipeline(reference):
            yield _pipeline_and_model((label, checkpoint), (first, reference))
        else:
            some, theirs = next(iter(reference.tensors)), next(iter(checkpoint.tensors))
            what = f"{label} and {first} share no tensor name; one has {theirs!r}, the other {some!r}"
            yield Problem(what, "merge models of one architecture, or map the names with `rename`")


def _is_pipeline(checkpoint: Checkpoint) -> bool:
    return not isinstance(checkpoint.stem, str)


def _pipeline_and_model(one: tuple[str, Checkpoint], other: tuple[str, Checkpoint]) -> Problem:
    """A pipeline among models of one kind; the part that was meant is the one that shares the most names."""
    (whole, pipeline), (single, model) = (one, other) if _is_pipeline(one[1]) else (other, one)
    shared = Counter(part_of(name) for name in pipeline.tensors if name.partition(SEPARATOR)[2] in model.tensors)
    parts, place = list(pipeline.stem), pipeline.path or pipeline.label
    what = f"{whole} ({pipeline.label}) is a pipeline of {listed(parts)}, but {single} ({model.label}) is one model"
    if not shared:
        return Problem(what, f"name a part of the pipeline: {listed(f'{place}/{part}' for part in parts)}")
    part = shared.most_common(1)[0][0]
    return Problem(what, f"merge the part that it is: {place}/{part}")


def by_part(inputs: Inputs, lacking: Mapping[str, Problem]) -> Iterator[Problem]:
    """What to say of missing tensors, in one sentence for each part of a pipeline that is missing altogether.

    Args:
        inputs: the checkpoints.
        lacking: the problem of each tensor that an input lacks.
    """
    have_parts = any(_is_pipeline(checkpoint) for _, checkpoint in inputs.all())
    counts = {label: Counter(map(part_of, c.tensors)) for label, c in inputs.all()} if have_parts else {}
    placed = {label: f"{label} ({checkpoint.label})" for label, checkpoint in inputs.all()}
    told: set[str] = set()
    for name, problem in lacking.items():
        part = part_of(name)
        without = [placed[label] for label, count in counts.items() if part and part not in count]
        if not without:
            yield problem
        elif part not in told:
            told.add(part)
            have = [label for label, count in counts.items() if part in count]
            yield _missing_part(part, have, without, counts[have[0]][part])


def _missing_part(part: str, have: list[str], without: list[str], count: int) -> Problem:
    uses = " or ".join(f"`use: {label.removeprefix('model ').strip(chr(39))}`" for label in have[:1])
    what = f"part {part!r} ({count} tensors) is in {', '.join(have)} but missing from {', '.join(without)}"
    remedy = f'add a rule with match: "{part}/*" and {uses} or `use: drop`; or choose a policy with `on_missing:`'
    return Problem(what, remedy)


def unequal_stacks(inputs: Inputs) -> Iterator[Problem]:
    """Models that have more or fewer layers than the reference."""
    (first, reference), *others = inputs.all()
    expected = _stacks(reference.tensors)
    for label, checkpoint in others:
        for stack, count in _stacks(checkpoint.tensors).items():
            if stack in expected and expected[stack] != count:
                what = f"{label} has {count} of {stack}*, {first} has {expected[stack]}"
                yield Problem(what, "merge models of one depth, or add rules for the layers that only one has")


def _stacks(names: Collection[str]) -> dict[str, int]:
    """How many numbered parts there are under each name: `model.layers.` to 24."""
    found: dict[str, set[int]] = {}
    for name in names:
        if match := _NUMBERED.match(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    return {stack: len(numbers) for stack, numbers in found.items()}


def unequal_experts(inputs: Inputs, absent: Collection[str]) -> tuple[list[Problem], frozenset[str]]:
    """Inputs that hold a layer's experts in one tensor, where others hold them one by one.

    Known by the shapes: the one tensor has an axis more than the many, as long as they are many.

    Args:
        inputs: the checkpoints.
        absent: tensors that some input lacks.

    Returns:
        A problem for every two inputs that differ so, and the tensors that are explained by it.
    """
    pairs: dict[tuple[str, str], list[_Fused]] = {}
    beside = _by_layer(absent)
    for prefix, names in _numbered(absent).items():
        one, count = names[0], len({name[len(prefix) :].partition(".")[0] for name in names})
        for whole in beside[_layer_of(one)]:
            if _is_stacked(inputs, whole, one, count):
                owners = (_owner(inputs, whole), _owner(inputs, one))
                pairs.setdefault(owners, []).append(_Fused(whole, one, count, (*names, *_siblings(whole, beside))))
                break
    problems = [_experts_differ(inputs, *owners, found) for owners, found in pairs.items()]
    return problems, frozenset(name for found in pairs.values() for fused in found for name in fused.explains)


@dataclass(frozen=True)
class _Fused:
    """A tensor that holds what another input holds in many.

    Attributes:
        whole: its name.
        one: the first of the many.
        count: how many there are.
        explains: all tensors of either kind.
    """

    whole: str
    one: str
    count: int
    explains: tuple[str, ...]


def _numbered(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what stands before the last number in them."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _MEMBER.match(name):
            found.setdefault(match[1], []).append(name)
    return found


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_layer_of(name), []).append(name)
    return found


def _layer_of(name: str) -> str:
    """`model.layers.3.` for a tensor of that layer; empty outside of layers."""
    match = _NUMBERED.match(name)
    return match[0] if match else ""


def _siblings(name: str, beside: Mapping[str, Sequence[str]]) -> list[str]:
    """The tensors of the same module."""
    module = f"{name.rpartition('.')[0]}."
    return [other for other in beside[_layer_of(name)] if other.startswith(module)]


def _is_stacked(inputs: Inputs, whole: str, one: str, count: int) -> bool:
    """Whether a tensor can hold, in another input, so many like this one."""
    stacked, single = _spec(inputs, whole), _spec(inputs, one)
    apart = all(whole not in c.tensors or one not in c.tensors for _, c in inputs.all())
    return apart and len(stacked.shape) == len(single.shape) + 1 >= 3 and stacked.shape[0] == count


def _spec(inputs: Inputs, name: str) -> TensorSpec:
    return next(checkpoint.tensors[name] for _, checkpoint in inputs.all() if name in checkpoint.tensors)


def _owner(inputs: Inputs, name: str) -> str:
    return next(label for label, checkpoint in inputs.all() if name in checkpoint.tensors)


def _experts_differ(inputs: Inputs, whole: str, apart: str, found: Sequence[_Fused]) -> Problem:
    first = found[0]
    more = f", and so in {len(found) - 1} more layers" if len(found) > 1 else ""
    what = (
        f"{whole} holds the experts of a layer in one tensor, {apart} one by one: "
        f"{first.whole!r} is {_spec(inputs, first.whole)} in {whole}, "
        f"{first.one!r} and {first.count - 1} like it are {_spec(inputs, first.one)} in {apart}{more}"
    )
    remedy = (
        "load both with one version of transformers and save them with save_pretrained, which writes one layout; "
        "`rename` cannot stack tensors"
    )
    return Problem(what, remedy)
