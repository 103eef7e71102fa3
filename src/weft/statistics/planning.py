"""Finds out how a model's layers carry examples: along their first dimension, in blocks, or not at all.

Two forward passes, with two and with three examples, tell: what has two and three rows, or four and six, has the
examples outermost. What stays the same is the same for all. Nothing is believed on this ground alone: `trial.py`
compares the gradients that follow with those of single examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.statistics.watching import Call, Owner, Watch

Key = tuple[str, int]


@dataclass(frozen=True)
class Plan:
    """How each call's examples lie.

    Attributes:
        calls: for every call, how many rows of each tensor among its inputs belong to an example; 0: all to all.
        spread: calls whose output has to be repeated for every example.
        obstacles: parameters whose gradients cannot be told apart by example, with the reason.
        copied: whether outputs that are views are copied, because the model changes them in place, after which torch
            tells nobody of their gradients.
    """

    calls: Mapping[Key, tuple[int, ...]]
    spread: frozenset[Key]
    obstacles: Mapping[str, str]
    copied: bool = False


@dataclass(frozen=True)
class _Seen:
    owner: Owner
    inputs: tuple[torch.Size, ...]
    outputs: tuple[torch.Size, ...]


def planned(run: Callable[[int], None], owners: Sequence[Owner]) -> Plan:
    """Look at two forward passes.

    Args:
        run: runs the model on so many examples.
        owners: the modules to look at.
    """
    spread: frozenset[Key] = frozenset()
    two, three = _shapes(run, owners, spread, 2), _shapes(run, owners, spread, 3)
    while more := {key for key in two.keys() & three.keys() if _same_for_all(two[key], three[key])} - spread:
        spread |= more
        try:
            two, three = _shapes(run, owners, spread, 2), _shapes(run, owners, spread, 3)
        except Exception:  # whatever a model says to one row for each example where it expects one for all
            stuck = {name: path for o in owners if (path := o.name) in dict(more) for name in o.own.values()}
            return Plan({}, spread, {name: f"{path} gives the same to all examples" for name, path in stuck.items()})
    return _read(two, three, spread)


def _shapes(
    run: Callable[[int], None], owners: Sequence[Owner], spread: frozenset[Key], examples: int
) -> dict[Key, _Seen]:
    seen: dict[Key, _Seen] = {}

    def note(call: Call) -> None:
        inputs, outputs = (tuple(t.shape for t in ts) for ts in (call.inputs(), call.outputs))
        seen[call.key] = _Seen(call.owner, inputs, outputs)

    with torch.no_grad(), Watch(owners, spread, examples, note).listening():
        run(examples)
    return seen


def _same_for_all(two: _Seen, three: _Seen) -> bool:
    """Whether a call gives one row for all examples."""
    return bool(two.outputs) and two.outputs == three.outputs and all(s[:1] == (1,) for s in two.outputs)


def _read(two: Mapping[Key, _Seen], three: Mapping[Key, _Seen], spread: frozenset[Key]) -> Plan:
    calls: dict[Key, tuple[int, ...]] = {}
    obstacles: dict[str, str] = {}
    for key in two.keys() | three.keys():
        owner = (two.get(key) or three[key]).owner
        shares = _shares(two.get(key), three.get(key))
        if shares is None:
            obstacles |= dict.fromkeys(owner.own.values(), f"{owner.name or 'the model'} mixes examples")
        else:
            calls[key] = shares
    return Plan(calls, spread, obstacles)


def _shares(two: _Seen | None, three: _Seen | None) -> tuple[int, ...] | None:
    """Rows of an example in every input, or None where they cannot be told apart, in inputs or outputs."""
    if two is None or three is None or len(two.inputs) != len(three.inputs) or not two.owner.name:
        return None
    if len(two.outputs) != len(three.outputs):
        return None
    outputs = [_share(a, b) for a, b in zip(two.outputs, three.outputs, strict=True)]
    inputs = [_share(a, b) for a, b in zip(two.inputs, three.inputs, strict=True)]
    if None in inputs or None in outputs or 0 in outputs:
        return None
    if two.owner.layer and inputs[:1] != outputs:
        return None
    return tuple(share for share in inputs if share is not None)


def _share(two: torch.Size, three: torch.Size) -> int | None:
    if two == three:
        return 0
    if two[1:] != three[1:] or two[0] % 2 or two[0] // 2 * 3 != three[0]:
        return None
    return int(two[0] // 2)


def distinct(batch: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Two examples that differ: the first and another."""
    count = len(next(iter(batch.values())))
    for other in range(count - 1, 0, -1):
        if any(not torch.equal(column[0], column[other]) for column in batch.values()):
            return 0, other
    return None
