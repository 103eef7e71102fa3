"""How much memory and how many workers, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from weft.algorithms.program import Gram, Rank, Share, Stage, Statistic
from weft.engine.ranking import BYTES, row_length
from weft.engine.together import groups
from weft.engine.whole import is_whole, need
from weft.engine.work import Copied, Work
from weft.errors import InputError
from weft.kernels.dtypes import FLOAT32
from weft.kernels.folds import BLOCK
from weft.kernels.selection import RankSelection, ShareSelection

_LONGEST_TILE = 16 * BLOCK


@dataclass(frozen=True)
class Settings:
    """Knobs that change how fast a merge runs, never what it computes.

    Attributes:
        memory: bytes for tiles, tables and what is kept between passes.
        workers: threads; 0 means one for each core that this process may use.
        tile: elements of a tile, for tests; 0 means as the memory allows.
        device: where torch computes tensors that a method sees whole. The one knob that may change the last bits.
    """

    memory: int = 2 * 2**30
    workers: int = 0
    tile: int = 0
    device: str = "cpu"

    @property
    def threads(self) -> int:
        """The number of workers."""
        if self.workers:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Budget:
    """How the memory is divided.

    Attributes:
        tile: elements of a tile, a multiple of the canonical block.
        resident: bytes of input that may be kept from one pass to the next.
        threads: workers.
        whole: bytes for tensors that a method sees whole.
        device: where those are computed.
    """

    tile: int
    resident: int
    threads: int
    whole: int = 0
    device: str = "cpu"


def budget(settings: Settings, items: Iterable[Work | Copied]) -> Budget:
    """Divide the memory among workers' tiles, selection tables and resident input.

    Raises:
        InputError: if the smallest tile of every worker does not fit, with the figure that would do.
    """
    if settings.workers < 0:
        raise InputError(
            f"workers: {settings.workers} is less than 0", "give a number of threads, or 0 for one per core"
        )
    items = list(items)
    width = max((_bytes_per_element(item) for item in items), default=1)
    table = _table_bytes(items)
    threads = settings.threads
    while not settings.workers and threads > 1 and table * (threads + 1) + threads * width * BLOCK > settings.memory:
        threads -= 1  # nobody asked for so many
    tables = table * (threads + 1) + threads * max((_row_bytes(item) for item in items), default=0)
    least = tables + threads * width * BLOCK
    if least > settings.memory:
        told = f"{settings.memory / 1e6:.1f} MB" if settings.memory >= 10**5 else f"{settings.memory} bytes"
        workers = "one worker needs" if threads == 1 else f"{threads} workers need"
        meant = f"; did you mean {settings.memory}MB?" if settings.memory < 10**5 else ""
        raise InputError(
            f"a memory of {told} is too small: {workers} {least / 1e6:.1f} MB", f"allow more, or fewer workers{meant}"
        )
    affordable = (settings.memory - tables) // (2 * threads * width) // BLOCK * BLOCK
    tile = settings.tile or min(max(affordable, BLOCK), _LONGEST_TILE)
    tile = max(tile // BLOCK, 1) * BLOCK
    whole = _whole_bytes(settings, items, threads)
    resident = min(settings.memory - tables - threads * width * tile, settings.memory - whole)
    return Budget(tile, max(resident, 0), threads, whole, settings.device)


def _whole_bytes(settings: Settings, items: Iterable[Work | Copied], threads: int) -> int:
    """What tensors may take together that are seen whole: the largest for every worker, as far as there is memory.

    Raises:
        InputError: if there is not enough for one of them.
    """
    needs = {item: need(item) for item in items if isinstance(item, Work) and is_whole(item)}
    if not needs:
        return 0
    largest = max(needs, key=lambda work: needs[work])
    if needs[largest] > settings.memory:
        what = f"tensor {largest.spec.name!r} ({largest.spec}) needs {needs[largest] / 1e6:.1f} MB of memory to be seen"
        method = f" whole, as method {largest.method.name} does" if largest.method else " whole"
        what += f"{method}, and the memory is {settings.memory / 1e6:.1f} MB"
        remedy = (
            f"allow at least {ceil(needs[largest] / 1e6)}MB with --memory (memory=...), or add a rule for this tensor"
        )
        raise InputError(what, f"{remedy} with another method")
    return min(settings.memory, threads * needs[largest])


def _bytes_per_element(item: Work | Copied) -> int:
    if isinstance(item, Copied):
        return item.spec.dtype.itemsize
    if is_whole(item) and not item.program.stages:
        return item.spec.dtype.itemsize  # it is not done in tiles
    inputs = sum(operand.spec.dtype.itemsize for operand in item.operands.values())
    ranking = item.program.change is not None and item.program.change.ranking is not None
    rows = item.compute.itemsize * item.models if any(_holds_rows(stage) for stage in item.program.stages) else 0
    places = item.compute.itemsize + FLOAT32.itemsize * item.models if ranking else 0
    return inputs + item.spec.dtype.itemsize + 3 * item.compute.itemsize + rows + places


def _holds_rows(stage: Stage) -> bool:
    return isinstance(stage.statistic, Statistic) and isinstance(stage.statistic.fold, Gram)


def _row_bytes(item: Work | Copied) -> int:
    """What one thread takes for the rows around a tile, where parameters are put in order."""
    if isinstance(item, Copied) or item.program.change is None or item.program.change.ranking is None:
        return 0
    inputs = sum(operand.spec.dtype.itemsize for operand in item.operands.values())
    length = row_length(item.spec.shape)
    around = min(2 * length, item.spec.size)
    return around * (inputs + item.compute.itemsize + FLOAT32.itemsize * item.models) + length * BYTES


def _table_bytes(items: Iterable[Work | Copied]) -> int:
    """What one thread's selection tables may take: one for each model, rank and set of parameters."""
    kinds = {(id(item.program), item.models): item for item in items if isinstance(item, Work)}
    selecting = [
        (item.method, len(group) * item.models * _one_table(group[0].statistic.fold))
        for item in kinds.values()
        for group in groups(item.program)
        if isinstance(group[0].statistic, Statistic) and isinstance(group[0].statistic.fold, (Rank, Share))
    ]
    settings = len({id(used) for used, _ in selecting})
    return max((tables * settings for _, tables in selecting), default=0)


def _one_table(fold: Rank | Share) -> int:
    return ShareSelection.table_bytes if isinstance(fold, Share) else RankSelection.table_bytes
