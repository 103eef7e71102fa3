"""Why tensors are missing: another architecture, another number of layers. One sentence instead of a hundred."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from weft.engine.inputs import Inputs
from weft.errors import Problem

_NUMBERED = re.compile(r"^(.*?[^.\d]\.)(\d+)\.")


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
        if checkpoint.tensors and reference.tensors and not checkpoint.tensors.keys() & reference.tensors.keys():
            some, theirs = next(iter(reference.tensors)), next(iter(checkpoint.tensors))
            what = f"{label} and {first} share no tensor name; one has {theirs!r}, the other {some!r}"
            yield Problem(what, "merge models of one architecture, or map the names with `rename`")


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
