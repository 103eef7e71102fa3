"""Runs a plan: scopes one after the other or side by side, statistics first, then the map; copies at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.engine.binding import arguments
from weft.engine.cost import bytes_to_move
from weft.engine.mapping import Sink, compute, copy
from weft.engine.planning import Plan, as_copy
from weft.engine.progress import Progress
from weft.engine.reading import Reader, Residency
from weft.engine.runner import Runner
from weft.engine.settings import Budget
from weft.engine.statistics import Scope, settle
from weft.engine.watch import ConstantMasks, OnNonfinite, Watch
from weft.engine.work import Copied, Work
from weft.kernels.dtypes import FLOAT64, compute_dtype


def execute(
    plan: Plan, budget: Budget, sink: Sink, progress: Progress, on_nonfinite: OnNonfinite = "error"
) -> tuple[str, ...]:
    """Compute and copy every tensor of a plan.

    Args:
        plan: what to do.
        budget: tiles, memory and threads; whatever they are, the output's bytes are the same.
        sink: where output goes.
        progress: is told how far it is.
        on_nonfinite: what to do about inputs that are not finite.

    Returns:
        What was noted on the way, in words.

    Raises:
        InputError: for inputs that are not finite, if that is an error. Masks, which hold infinities and are the same
            in every input, are copied.
    """
    try:
        return _executed(plan, budget, sink, progress, on_nonfinite)
    except ConstantMasks as found:
        return execute(_copying(plan, found.works), budget, sink, progress, on_nonfinite)


def _copying(plan: Plan, masks: frozenset[Work]) -> Plan:
    """The plan with these tensors copied instead of merged."""
    works = [work for work in plan.works if work not in masks]
    copies = [*plan.copies]
    for mask in masks:
        copied = as_copy(mask.spec, next(o for (name, _), o in mask.operands.items() if name == "tuned"))
        copied = replace(copied, aliases=mask.aliases, rule=mask.rule)
        copies.append(copied) if isinstance(copied, Copied) else works.append(copied)
    return replace(plan, works=tuple(works), copies=tuple(copies))


def _executed(plan: Plan, budget: Budget, sink: Sink, progress: Progress, on_nonfinite: OnNonfinite) -> tuple[str, ...]:
    progress.phase("merging", bytes_to_move(plan))
    together, alone = _scopes([work for work in plan.works if work.spec.size])
    watch = Watch(on_nonfinite)
    run = _Execution(budget, Residency(budget.resident), sink, progress, watch)
    notes = [run.scope(works, Runner(budget.threads)) for works in together]
    notes += [run.scope([work], Runner(budget.threads)) for work in alone if work.spec.size > budget.tile]
    notes += run.side_by_side([work for work in alone if work.spec.size <= budget.tile])
    run.copies(plan.copies)
    return (*dict.fromkeys(text for texts in notes for text in texts), *watch.warnings())


@dataclass(frozen=True)
class _Execution:
    """What all scopes of one merge share."""

    budget: Budget
    residency: Residency
    sink: Sink
    progress: Progress
    watch: Watch

    def scope(self, works: Sequence[Work], runner: Runner) -> tuple[str, ...]:
        """Statistics, then the map."""
        reader = Reader(self.residency, self.progress)
        scope = Scope(works, reader, runner, self.budget.tile, self.watch)
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
            key = (type(work.method), work.program.whole_model, work.program.note, _asked_files(work))
            groups.setdefault(key, []).append(work)
    return [_in_one_precision(group) for group in groups.values()], alone


def _asked_files(work: Work) -> tuple[object, ...]:
    """The files beside the checkpoints that its statistics are about: another file is another statistic."""
    asked = {name for statistic in work.program.statistics for name in arguments(statistic.expression)}
    sources = [work.program.auxiliary[name] for name in sorted(asked & work.program.auxiliary.keys())]
    every = [one for source in sources for one in (source if isinstance(source, tuple) else (source,))]
    return tuple(str(one) if isinstance(one, (str, os.PathLike)) else id(one) for one in every)


def _in_one_precision(works: list[Work]) -> list[Work]:
    """A statistic over several tensors is computed in the precision of the finest."""
    if not works[0].program.whole_model or compute_dtype([work.compute for work in works]) is not FLOAT64:
        return works
    return [replace(work, compute=FLOAT64) for work in works]
