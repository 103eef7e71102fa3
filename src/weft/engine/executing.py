"""Runs a plan: scopes one after the other or side by side, statistics first, then the map; copies at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.engine.cost import bytes_to_move
from weft.engine.mapping import Sink, compute, copy
from weft.engine.planning import Plan
from weft.engine.progress import Progress
from weft.engine.reading import Reader, Residency
from weft.engine.runner import Runner
from weft.engine.settings import Budget
from weft.engine.statistics import Scope, settle
from weft.engine.work import Copied, Work
from weft.kernels.dtypes import FLOAT64, compute_dtype


def execute(plan: Plan, budget: Budget, sink: Sink, progress: Progress) -> tuple[str, ...]:
    """Compute and copy every tensor of a plan.

    Args:
        plan: what to do.
        budget: tiles, memory and threads; whatever they are, the output's bytes are the same.
        sink: where output goes.
        progress: is told how far it is.

    Returns:
        What the methods noted, in words.
    """
    progress.phase("merging", bytes_to_move(plan))
    together, alone = _scopes([work for work in plan.works if work.spec.size])
    run = _Execution(budget, Residency(budget.resident), sink, progress)
    notes = [run.scope(works, Runner(budget.threads)) for works in together]
    notes += [run.scope([work], Runner(budget.threads)) for work in alone if work.spec.size > budget.tile]
    notes += run.side_by_side([work for work in alone if work.spec.size <= budget.tile])
    run.copies(plan.copies)
    return tuple(dict.fromkeys(text for texts in notes for text in texts))


@dataclass(frozen=True)
class _Execution:
    """What all scopes of one merge share."""

    budget: Budget
    residency: Residency
    sink: Sink
    progress: Progress

    def scope(self, works: Sequence[Work], runner: Runner) -> tuple[str, ...]:
        """Statistics, then the map."""
        reader = Reader(self.residency, self.progress)
        scope = Scope(works, reader, runner, self.budget.tile)
        try:
            return compute(scope, settle(scope), self.sink, self.progress)
        finally:
            reader.release()

    def side_by_side(self, works: Sequence[Work]) -> list[tuple[str, ...]]:
        """Tensors of one tile that stand alone: each whole on one thread, many at once."""
        notes: list[tuple[str, ...]] = []
        one = Runner(1)
        Runner(self.budget.threads).run(works, lambda: None, lambda _, work: notes.append(self.scope([work], one)))
        return notes

    def copies(self, copies: Sequence[Copied]) -> None:
        """Tensors that are taken as they are."""
        reader, runner = Reader(self.residency, self.progress), Runner(self.budget.threads)
        copy(copies, reader, runner, self.budget.tile, self.sink, self.progress)


def _scopes(works: Sequence[Work]) -> tuple[list[list[Work]], list[Work]]:
    """Tensors that share their statistics, in groups; and those that stand alone.

    Tensors without statistics share a group, since nothing ties their tiles to an order.
    """
    groups: dict[object, list[Work]] = {}
    alone: list[Work] = []
    for work in works:
        if work.program.statistics and not work.program.whole_model:
            alone.append(work)
        else:
            key = (type(work.method), work.program.whole_model, work.program.note)
            groups.setdefault(key, []).append(work)
    return [_in_one_precision(group) for group in groups.values()], alone


def _in_one_precision(works: list[Work]) -> list[Work]:
    """A statistic over several tensors is computed in the precision of the finest."""
    if not works[0].program.whole_model or compute_dtype([work.compute for work in works]) is not FLOAT64:
        return works
    return [replace(work, compute=FLOAT64) for work in works]
