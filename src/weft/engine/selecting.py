"""Order statistics of a scope, exact: a search that a sample begins and that counting ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from weft.algorithms.program import Rank
from weft.algorithms.program import Share as ShareOf
from weft.checkpoints.checkpoint import Array
from weft.engine.reading import Buffers, StripInputs
from weft.engine.scope import Scope
from weft.engine.snapshots import Share
from weft.engine.sweeping import Slot, Sweep, Worker
from weft.engine.watch import Watch
from weft.engine.work import Strip, Tile, Work
from weft.kernels.selection import RankSelection, Selection, ShareSelection, Tables

_SAMPLED = 1 << 17
"""Parameters from which on a sample is taken before a search."""

_STRETCH, _LEAST_SAMPLE, _LARGEST_SAMPLE = 1024, 1 << 14, 1 << 22
"""A sample is taken in stretches: enough of them to tell how much they differ. The largest is that of all models."""

Answer = tuple[Work, Slot, int]
"""Whose number it is, and of which of the statistics that are found together."""

Answers = dict[Answer, float]


def selected(sweep: Sweep, folds: Sequence[Rank | ShareOf]) -> Answers:
    """Ranks, or shares, of one expression, all in the same passes."""
    fold, scope = folds[0], sweep.scope
    targets = {
        (work, slot, k): _target(sweep, own, work, slot)
        for k, own in enumerate(folds)
        for work in scope.works
        for slot in sweep.asked
    }
    if isinstance(fold, Rank) and len(scope.works) == 1 and scope.count <= scope.tile:
        return _ranked_at_once(sweep, targets)
    compute = sweep.precision(scope.works[0])
    wanted = {slot: {target for (_, s, _), target in targets.items() if s == slot} for slot in sweep.asked}
    selections: dict[Slot, Selection] = {
        slot: RankSelection(asked, compute, fold.signed) if isinstance(fold, Rank) else ShareSelection(asked, compute)
        for slot, asked in wanted.items()
    }
    rounds = 0
    if scope.count >= _SAMPLED:
        _learn(sweep, selections)
    while unfinished := {slot: s for slot, s in selections.items() if not s.done}:
        _count(sweep, unfinished, rounds)
        rounds += 1
    return {place: selections[place[1]].result(target) for place, target in targets.items()}


def _ranked_at_once(sweep: Sweep, targets: Mapping[Answer, float]) -> Answers:
    """The same order statistics where one tile holds the whole scope: no tables, and one look."""
    strip = Strip(tuple(sweep.scope.tiles()))
    found: Answers = {}
    for slot, values in sweep.evaluated(Worker(Share({}), sweep.scope.buffers()), strip, sweep.asked):
        ranks = {place: int(target) for place, target in targets.items() if place[1] == slot}
        parted = np.partition(values, [rank - 1 for rank in {*ranks.values()} if rank] or 0)
        found |= {place: float(parted[rank - 1]) if rank else 0.0 for place, rank in ranks.items()}
    sweep.scope.watch.finish_pass()
    return found


def _count(sweep: Sweep, selections: Mapping[Slot, Selection], number: int) -> None:
    """One round of all searches."""

    def start() -> Worker:
        tables = {slot: selection.tables() for slot, selection in selections.items()}
        return Worker(snapshots.share(_named(tables)), sweep.scope.buffers(), tables)

    def step(worker: Worker, strip: Strip[Work]) -> None:
        for slot, values in sweep.evaluated(worker, strip, selections):
            selections[slot].add(values, worker.tables[slot])

    merge = next(iter(selections.values())).merge
    before = {slot: selection.tables() for slot, selection in selections.items()}
    snapshots = sweep.snapshots(number, merge, {}, {name: table.shape for name, table in _named(before).items()})
    workers = sweep.sweep(snapshots, start, step)
    for name, table in _named(before).items():
        if name in snapshots.restored:
            merge(table, snapshots.restored[name])
    for slot, selection in selections.items():
        selection.advance([before[slot], *(worker.tables[slot] for worker in workers)])


def _learn(sweep: Sweep, selections: Mapping[Slot, Selection]) -> None:
    """Let the searches begin where a sample says that the answers are."""
    pieces = list(_sampled(sweep.scope, len(selections)))
    if not pieces:
        return
    compute = sweep.precision(sweep.scope.works[0])
    unwatched = Watch("ignore", sweep.scope.journal)  # all of it will be gone over anyway
    samples = {slot: np.zeros((len(pieces), _STRETCH), compute.storage) for slot in selections}

    def step(worker: Worker, task: tuple[int, Tile[Work]]) -> None:
        row, tile = task
        inputs = StripInputs(sweep.scope.reader, Strip((tile,)), worker.buffers, False, unwatched)
        for slot, values in sweep.computed(worker, Strip((tile,)), inputs, selections):
            samples[slot][row] = values

    sweep.scope.runner.run(enumerate(pieces), lambda: Worker(Share({}), Buffers()), step)
    sweep.scope.runner.run(
        selections.items(), lambda: None, lambda _, task: task[1].expect(samples[task[0]], sweep.scope.count)
    )


def _target(sweep: Sweep, fold: Rank | ShareOf, work: Work, slot: Slot) -> float:
    (value,) = sweep.parameter(work, slot, fold.by)
    return float(fold.rank(sweep.scope.count, value)) if isinstance(fold, Rank) else value


def _sampled(scope: Scope, slots: int) -> Iterator[Tile[Work]]:
    """Stretches of a scope's tensors, at even distances, that stand for the whole.

    The fewer n of N parameters are looked at, the more keys lie in the bracket that they give: about N / sqrt(n). To go
    through those costs as much as to sort the sample where n is in proportion to N^(2/3).
    """
    best = int((2.0 * scope.count) ** (2 / 3))
    wanted = min(max(best, _LEAST_SAMPLE), _LARGEST_SAMPLE // slots) // _STRETCH
    distance = max(scope.count // wanted, _STRETCH)
    place = 0
    for work in scope.works:
        while place + _STRETCH <= work.spec.size:
            yield Tile(work, place, place + _STRETCH)
            place += distance
        place = max(place - work.spec.size, 0)


def _named(tables: Mapping[Slot, Tables]) -> dict[str, Array]:
    """Tables by names that a file can have."""
    return {f"{slot} {prefix}": table for slot, by_prefix in tables.items() for prefix, table in by_prefix.items()}
