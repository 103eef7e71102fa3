"""Statistics that are sums of canonical blocks, or their extremes: one pass, exact whatever the order."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from weft.algorithms.program import Extreme, Gram, Total
from weft.checkpoints.checkpoint import Array
from weft.engine.sweeping import Slot, Sweep, Worker
from weft.engine.work import Strip, Tile, Work
from weft.kernels.folds import BLOCK, block_products, block_sums

Found = dict[tuple[Work, Slot], float]
"""For each tensor and each model that was asked for, its number."""


def totals(sweep: Sweep, fold: Total) -> Found:
    """Sums of the expression, as the fold finishes them."""
    sums = _blocks(sweep, sweep.asked)

    def step(worker: Worker, strip: Strip[Work]) -> None:
        for slot, values in sweep.evaluated(worker, strip, sweep.asked):
            for tile, part in strip.parts(values):
                _note(sums[tile.item, slot], tile, block_sums(part))

    _gather(sweep, sums, np.add, step)
    total = {slot: exact_sum(sums[work, slot] for work in sweep.scope.works) for slot in sweep.asked}
    return {
        (work, slot): fold.finished(total[slot], sweep.scope.count, *sweep.parameter(work, slot, fold.by))
        for work in sweep.scope.works
        for slot in sweep.asked
    }


def extremes(sweep: Sweep, fold: Extreme) -> Found:
    """The largest value of the expression, or the smallest."""
    largest = fold.which == "largest"
    ufunc, start = (np.maximum, -np.inf) if largest else (np.minimum, np.inf)
    found = _blocks(sweep, sweep.asked, start)

    def step(worker: Worker, strip: Strip[Work]) -> None:
        for slot, values in sweep.evaluated(worker, strip, sweep.asked):
            for tile, part in strip.parts(values):
                _note(found[tile.item, slot], tile, ufunc.reduceat(part, range(0, len(part), BLOCK)))

    _gather(sweep, found, ufunc, step)
    every = {slot: np.concatenate([found[work, slot] for work in sweep.scope.works]) for slot in sweep.asked}
    return {(work, slot): float(ufunc.reduce(every[slot])) for work in sweep.scope.works for slot in sweep.asked}


def products(sweep: Sweep, fold: Gram) -> Found:
    """Inner products of all pairs of models, as the fold finishes them."""
    models = [slot for slot in sweep.asked if slot is not None]
    pairs = [(i, j) for i in models for j in models if i <= j]
    sums = _blocks(sweep, pairs)

    def step(worker: Worker, strip: Strip[Work]) -> None:
        kind = sweep.precision(strip.item).storage
        rows = worker.buffers.typed("rows", len(models) * strip.size, kind).reshape(len(models), -1)
        for slot, values in sweep.evaluated(worker, strip, models):
            rows[slot] = values
        for i, j in pairs:
            for (tile, one), (_, other) in zip(strip.parts(rows[i]), strip.parts(rows[j]), strict=True):
                _note(sums[tile.item, (i, j)], tile, block_products(one, other))

    _gather(sweep, sums, np.add, step)
    total = {pair: exact_sum(sums[work, pair] for work in sweep.scope.works) for pair in pairs}
    gram = [[total[min(i, j), max(i, j)] for j in models] for i in models]
    finished = {work: fold.finish(gram, sweep.known(work)) for work in sweep.scope.works}
    return {(work, slot): finished[work][slot] for work in sweep.scope.works for slot in models}


def exact_sum(arrays: Iterable[Array]) -> float:
    """The correctly rounded sum; infinite or not a number where the terms are, or where it leaves the range."""
    flat = np.concatenate(list(arrays))
    try:
        return math.fsum(flat.tolist()) if np.isfinite(flat).all() else float(flat.sum())
    except OverflowError:
        return float(flat.sum())


def _blocks(sweep: Sweep, parts: Iterable[Hashable], start: float = 0.0) -> dict[tuple[Work, Any], Array]:
    """For each tensor and each of some parts, a number for every canonical block; of one part, one array."""
    stops = np.cumsum([0, *(-(-work.spec.size // BLOCK) for work in sweep.scope.works)]).tolist()
    places = [(work, stops[k], stops[k + 1]) for k, work in enumerate(sweep.scope.works)]
    wholes = {part: np.full(stops[-1], start) for part in parts}
    return {(work, part): whole[a:b] for part, whole in wholes.items() for work, a, b in places}


def _gather(
    sweep: Sweep,
    numbers: Mapping[tuple[Work, Any], Array],
    merge: Callable[[Array, Array], Any],
    step: Callable[[Worker, Strip[Work]], None],
) -> None:
    """Fill in the blocks' numbers."""
    named = {str(part): array.base for (_, part), array in numbers.items() if array.base is not None}
    snapshots = sweep.snapshots(0, merge, named, {})
    sweep.sweep(snapshots, lambda: Worker(snapshots.share({}), sweep.scope.buffers()), step)


def _note(numbers: Array, tile: Tile[Work], found: Array) -> None:
    """Put the numbers of a tile's blocks in their places."""
    first = tile.start // BLOCK
    numbers[first : first + len(found)] = found
