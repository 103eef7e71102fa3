"""Runs a plan: scopes one after the other or side by side, statistics first, then the map; copies at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weft.engine.mapping import Sink, compute, copy
from weft.engine.planning import Plan
from weft.engine.progress import Progress
from weft.engine.reading import Reader, Residency
from weft.engine.runner import Runner
from weft.engine.settings import Budget
from weft.engine.statistics import Scope, settle
from weft.engine.work import Work
from weft.kernels.dtypes import FLOAT64, compute_dtype


def execute(plan: Plan, budget: Budget, sink: Sink, progress: Progress) -> None:
    """Compute and copy every tensor of a plan.

    Args:
        plan: what to do.
        budget: tiles, memory and threads; whatever they are, the output's bytes are the same.
        sink: where output goes.
        progress: is told.
    """
    residency = Residency(budget.resident)
    together, alone = _scopes([work for work in plan.works if work.spec.size])
    large = [[work] for work in alone if work.spec.size > budget.tile]
    for works in (*together, *large):
        _run(works, Runner(budget.threads), budget, residency, sink, progress)
    small = [work for work in alone if work.spec.size <= budget.tile]
    one = Runner(1)
    Runner(budget.threads).run(
        small, lambda: None, lambda _, work: _run([work], one, budget, residency, sink, progress)
    )
    reader = Reader(residency, progress)
    copy(list(plan.copies), reader, Runner(budget.threads), budget.tile, sink, progress)


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


def _run(
    works: Sequence[Work], runner: Runner, budget: Budget, residency: Residency, sink: Sink, progress: Progress
) -> None:
    reader = Reader(residency, progress)
    scope = Scope(works, reader, runner, budget.tile)
    try:
        compute(scope, settle(scope), sink, progress)
    finally:
        reader.release()
