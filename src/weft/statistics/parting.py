"""The parts of a fine-tuned model's checkpoint, as what is put into a loaded base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from weft.algorithms.apl import Partition, part_of
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.renamed import without_stray_prefix
from weft.errors import InputError, Problem, nearest
from weft.statistics.naming import Naming
from weft.statistics.tensors import read_tensor

if TYPE_CHECKING:
    from weft.statistics.interventions import Graft


def open_tuned(model: str, base: Checkpoint, naming: Naming) -> Checkpoint:
    """A model that was fine-tuned from a base, under the base's names.

    Args:
        model: its folder or file, or its id on the Hub.
        base: the base's checkpoint.
        naming: which of its tensors the loaded base has.

    Raises:
        InputError: if it cannot be opened, or lacks tensors, or has others shapes.
    """
    opened = open_checkpoint(model)
    tuned, _ = without_stray_prefix(opened, base.tensors.keys())
    problems = list(_misfits(tuned, base, naming))
    if problems:
        tuned.close()
        raise InputError(problems)
    return tuned


def _misfits(tuned: Checkpoint, base: Checkpoint, naming: Naming) -> Iterator[Problem]:
    remedy = f"give a model that was fine-tuned from {base.label}"
    for name in naming.pieces:
        if name not in tuned.tensors:
            yield Problem(f"{tuned.label} has no tensor {name!r}", nearest(name, tuned.tensors) or remedy)
        elif tuned.tensors[name].shape != base.tensors[name].shape:
            shapes = f"{list(tuned.tensors[name].shape)}, in {base.label} {list(base.tensors[name].shape)}"
            yield Problem(f"tensor {name!r} has in {tuned.label} the shape {shapes}", remedy)


def grafts(base: Checkpoint, tuned: Checkpoint, naming: Naming, partition: Partition) -> Mapping[str, list[Graft]]:
    """For each part of a model what makes the loaded base's numbers the tuned model's; nothing where they are equal.

    Args:
        base: the base's checkpoint.
        tuned: the other's, under the same names.
        naming: where the base's tensors are in the loaded module.
        partition: what the parts are.
    """
    from weft.statistics.interventions import Graft

    parts: dict[str, list[Graft]] = {}
    for name, pieces in naming.pieces.items():
        own = parts.setdefault(part_of(name, partition), [])
        before, after = (read_tensor(checkpoint, name).float().reshape(-1) for checkpoint in (base, tuned))
        if not before.equal(after):
            own += [Graft(piece.parameter, piece.source, after[piece.target]) for piece in pieces]
    return parts
