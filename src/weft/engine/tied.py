"""Which names are one tensor: `lm_head.weight` and the embedding, T5's three embeddings.

A tensor that several names share is merged once, counts once in a statistic and stays shared. In memory sharing is
seen from the storage. On disk the format cannot say it, so names of equal shape whose bytes are equal *in every
input* are taken for one tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import TIED, NumbersAbsentError, same_numbers
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
    toward: dict[str, str] = {}
    for alias, first in pairs:
        root, other = _followed(first, toward), _followed(alias, toward)
        if root != other:
            toward[other] = root
    return {name: _followed(name, toward) for name in toward}


def _followed(name: str, toward: dict[str, str]) -> str:
    """Where a chain of names ends; the way there is shortened, so that thousands of ties stay cheap."""
    passed = []
    while name in toward:
        passed.append(name)
        name = toward[name]
    toward.update(dict.fromkeys(passed[:-1], name))
    return name


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
    groups = [names for names in alike.values() if len(names) > 1]
    for names in sorted(groups, key=len):  # embedding and head before the layers
        try:
            yield from _of_one_shape(checkpoint, names)
        except NumbersAbsentError as absent:  # planned from headers alone: not every layer is worth a request
            absent.put_off(TIED)
            return


def _of_one_shape(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Such pairs among tensors of one shape. Ends are read only of those that begin alike, which are few."""
    beginnings: dict[bytes, list[str]] = {}
    for name in names:
        beginnings.setdefault(_sample(checkpoint, name, 0), []).append(name)
    for beginning, together in beginnings.items():
        first: dict[bytes, str] = {}
        for name in together if len(together) > 1 else ():
            end = _sample(checkpoint, name, max(checkpoint.tensors[name].size - _SAMPLE, 0))
            if len({*beginning, *end}) > 4 and (found := first.setdefault(end, name)) != name:
                yield name, found


def _sample(checkpoint: Checkpoint, name: str, start: int) -> bytes:
    spec = checkpoint.tensors[name]
    buffer = np.empty(_SAMPLE * spec.dtype.itemsize, np.uint8)
    return checkpoint.read(name, start, min(start + _SAMPLE, spec.size), buffer).tobytes()


def _equal(checkpoint: Checkpoint, a: str, b: str) -> bool:
    """Whether two names, as far as this checkpoint has them, hold the same bytes."""
    if not {a, b} <= checkpoint.tensors.keys() or checkpoint.tied.get(a, a) == checkpoint.tied.get(b, b):
        return True
    return same_numbers(checkpoint, a, checkpoint, b)
