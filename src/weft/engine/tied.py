"""Which names are one tensor: `lm_head.weight` and the embedding, T5's three embeddings.

A tensor that several names share is merged once, counts once in a statistic and stays shared. In memory sharing is
seen from the storage. On disk the format cannot say it, so names of equal shape whose bytes are equal *in every
input* are taken for one tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import same_numbers
from weft.engine.inputs import Inputs
from weft.errors import Problem

_SAMPLE = 512


@dataclass(frozen=True)
class Tied:
    """Names that are one tensor.

    Attributes:
        origin: for each name but one of every group, that one.
        certain: names whose sharing was seen in memory; the others only have equal bytes everywhere.
        problems: where sharing contradicts itself.
    """

    origin: Mapping[str, str]
    certain: frozenset[str]
    problems: tuple[Problem, ...]


def tied_groups(inputs: Inputs) -> Tied:
    """Find the names that share their tensor.

    A name may be absent from an input that holds the tensor under another name of its group: `save_pretrained` drops
    all but one. Where a tensor is shared in one input and differs in another, that is a problem, not a choice.
    """
    origin = _roots(pair for _, checkpoint in inputs.all() for pair in checkpoint.tied.items())
    certain = frozenset((*origin.keys(), *origin.values()))
    problems = [problem for alias, first in origin.items() for problem in _contradictions(inputs, alias, first)]
    for alias, first in _lookalikes(inputs.reference, set(origin)):
        if all(_equal(checkpoint, alias, first) for _, checkpoint in inputs.all()):
            origin[alias] = first
    return Tied(origin, certain, tuple(problems))


def _roots(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """From pairs of names that are one tensor: for each name but one of every group, that one."""
    origin: dict[str, str] = {}
    for alias, first in pairs:
        root, other = origin.get(first, first), origin.get(alias, alias)
        if root != other:
            origin = {name: root if old == other else old for name, old in origin.items()} | {other: root}
    return origin


def _contradictions(inputs: Inputs, alias: str, first: str) -> list[Problem]:
    tied = [label for label, c in inputs.all() if alias in c.tied]
    return [
        Problem(
            f"tensors {alias!r} and {first!r} are one tensor in {tied[0]}, but differ in {label} ({c.file_of(alias)})",
            "tie them there too, or pass untied copies everywhere",
        )
        for label, c in inputs.all()
        if not _equal(c, alias, first)
    ]


def _lookalikes(checkpoint: Checkpoint, settled: set[str]) -> Iterable[tuple[str, str]]:
    """Pairs of tensors of one shape that begin and end with the same bytes, constants left aside."""
    alike = defaultdict(list)
    for name, spec in checkpoint.tensors.items():
        if len(spec.shape) >= 2 and spec.size and name not in settled:
            alike[spec.dtype, spec.shape].append(name)
    buffer = np.empty(2 * _SAMPLE * 8, np.uint8)
    for (_, shape), names in alike.items():
        if len(names) < 2:
            continue
        first: dict[bytes, str] = {}
        size = int(np.prod(shape))
        for name in names:
            head = checkpoint.read(name, 0, min(size, _SAMPLE), buffer).tobytes()
            sample = head + checkpoint.read(name, max(size - _SAMPLE, 0), size, buffer).tobytes()
            if len(set(sample)) > 4 and (found := first.setdefault(sample, name)) != name:
                yield name, found


def _equal(checkpoint: Checkpoint, a: str, b: str) -> bool:
    """Whether two names, as far as this checkpoint has them, hold the same bytes."""
    if not {a, b} <= checkpoint.tensors.keys() or checkpoint.tied.get(a, a) == checkpoint.tied.get(b, b):
        return True
    return same_numbers(checkpoint, a, checkpoint, b)
