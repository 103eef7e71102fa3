"""Small tensors that stand alone, many at a time: what they cost is the number of calls, not the number of elements.

Tensors that are computed alike are read as one strip. Each keeps its own statistics: a compiled loop goes over the
tensors of the strip with a row of numbers for each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from weft.algorithms.program import Program, Rank, Statistic, Total
from weft.checkpoints.checkpoint import Array
from weft.engine.binding import Joined, bind_joined
from weft.engine.folding import exact_sum
from weft.engine.journal import Journal
from weft.engine.mapping import Sink, is_variance, noted
from weft.engine.reading import Buffers, Reader, StripInputs
from weft.engine.runner import Runner
from weft.engine.settings import Budget
from weft.engine.settling import numbers
from weft.engine.sweeping import Slot
from weft.engine.watch import OnNonfinite, Watch, has_nonfinite
from weft.engine.work import Key, Strip, Tile, Work, strips
from weft.kernels.dtypes import FLOAT64
from weft.kernels.folds import sums_of_each


def compute_joined(
    works: Sequence[Work], budget: Budget, reader: Reader, sink: Sink, on_nonfinite: OnNonfinite, journal: Journal
) -> list[Work]:
    """Compute small tensors, each a scope of its own, as far as they can be joined.

    Args:
        works: the tensors.
        budget: tiles and threads.
        reader: how they are read.
        sink: where output goes.
        on_nonfinite: what to do about inputs that are not finite.
        journal: what an earlier run did already, and where to note what this one does.

    Returns:
        Those that are left to be computed one by one: that are like no other, need what is not done here, were begun
        by an earlier run, or look as if something were wrong with them.
    """
    run = _Run(reader, sink, on_nonfinite, journal)
    left: set[Work] = set()

    def step(buffers: Buffers, strip: Strip[Work]) -> None:
        if len(strip.tiles) == 1 or not run.computes(strip, buffers):
            left.update(tile.item for tile in strip.tiles)

    whole = (Tile(work, 0, work.spec.size) for work in works)
    joined = strips(whole, run.alike, budget.tile)
    Runner(budget.threads).run(joined, Buffers, step)
    return [work for work in works if work in left]


class _Run:
    """What all strips share.

    Args:
        reader, sink, on_nonfinite, journal: as above.
    """

    def __init__(self, reader: Reader, sink: Sink, on_nonfinite: OnNonfinite, journal: Journal) -> None:
        self._reader = reader
        self._sink = sink
        self._policy = on_nonfinite
        self._journal = journal
        self._recipes: dict[Hashable, _Recipe | None] = {}
        self._unwatched = Watch("ignore", journal)  # inputs are examined here, before anything is computed

    def alike(self, work: Work) -> Hashable:
        """Equal for tensors that may be joined; None for one that may not be."""
        if work.aliases or is_variance(work) or any(o.checkpoint.is_computed for o in work.operands.values()):
            return None
        if list(self._journal.left(work.spec.name, 0, work.spec.size)) != [(0, work.spec.size)]:
            return None
        key = _kind(work)
        if key not in self._recipes:
            self._recipes[key] = _Recipe(work) if _is_plain(work.program) else None
        return key if self._recipes[key] else None

    def computes(self, strip: Strip[Work], buffers: Buffers) -> bool:
        """Compute a strip, unless inputs are not finite: then its tensors are looked at one by one."""
        recipe = self._recipes[_kind(strip.item)]
        assert recipe is not None
        inputs = StripInputs(self._reader, strip, buffers, False, self._unwatched)
        if self._policy != "ignore" and any(_is_spoilt(strip, key, inputs(key)) for key in recipe.keys):
            return False
        out, count = recipe.computed(_Joint(strip, inputs, buffers))
        self._sink.write_whole([t.item.spec.name for t in strip.tiles], [t.size for t in strip.tiles], out)
        self._reader.looked_at(strip.size * recipe.bytes_per_element)
        self._journal.wrote(strip.tiles, noted(strip.item, count))
        return True


def _kind(work: Work) -> Hashable:
    return (id(work.program), id(work.method), work.signature, work.compute, work.spec.dtype)


def _is_spoilt(strip: Strip[Work], key: Key, values: Array) -> bool:
    return has_nonfinite(values, strip.item.operands[key].spec.dtype)


def _is_plain(program: Program) -> bool:
    """Whether a program asks for nothing but what is done here; whatever programs may learn to ask for."""
    plain = Program(
        program.element,
        program.functions,
        program.statistics,
        program.values,
        note=program.note,
        remarks=program.remarks,
        relative=program.relative,
    )
    known = program.values.keys() | {""}
    return program == plain and all(isinstance(s, Statistic) and _is_simple(s, known) for s in program.statistics)


def _is_simple(statistic: Statistic, by: Set[str]) -> bool:
    fold = statistic.fold
    if isinstance(fold, Rank):
        known = fold == Rank(fold.rank, fold.by) and fold.by in by
    else:
        known = isinstance(fold, Total) and fold == Total(fold.finish, fold.by) and fold.by in by
    own = statistic.name, statistic.expression, fold, statistic.each
    return known and statistic == Statistic(*own, double=statistic.double)


@dataclass(frozen=True)
class _Joint:
    """A strip that is being computed."""

    strip: Strip[Work]
    inputs: StripInputs
    buffers: Buffers

    @cached_property
    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        return [tile.size for tile in self.strip.tiles]

    @cached_property
    def stops(self) -> Array:
        """Where each of them ends."""
        return np.cumsum(self.sizes, dtype=np.int64)

    def run(self, joined: Joined, known: Mapping[str, Array], purpose: str) -> tuple[Array, int]:
        """What a loop computes, in memory that is used again, and how many elements it noted."""
        out = self.buffers.typed(purpose, self.strip.size, joined.loop.output.storage)
        table = joined.table(known, len(self.sizes))
        return out, joined.kernel(out, self.stops, table, *map(self.inputs, joined.keys))

    def parts(self, values: Array) -> Iterator[Array]:
        """What belongs to each tensor."""
        return (part for _, part in self.strip.parts(values))


class _Recipe:
    """How tensors of one kind are computed: a loop for every statistic and model, and one for the map.

    Args:
        work: one of them.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        program = work.program
        counts = {name: len(value) if isinstance(value, tuple) else 0 for name, value in numbers(work).items()}
        self._stages: list[tuple[Statistic, dict[Slot, Joined]]] = []
        for statistic in program.statistics:
            assert isinstance(statistic, Statistic)
            self._stages.append((statistic, dict(_loops(work, statistic, counts))))
            counts[statistic.name] = work.models if statistic.each else 0
        self._map = bind_joined(work, None, counts, work.spec.dtype, None)
        read = [{key for loop in loops.values() for key in loop.keys} for _, loops in self._stages]
        read.append(set(self._map.keys))
        self.keys = sorted(set().union(*read), key=repr)
        width = {key: operand.spec.dtype.itemsize for key, operand in work.operands.items()}
        self.bytes_per_element = sum(width[key] for keys in read for key in keys) + work.spec.dtype.itemsize

    def computed(self, joint: _Joint) -> tuple[Array, int]:
        """The output of a strip, and how many elements were noted."""
        each = [numbers(tile.item) for tile in joint.strip.tiles]
        known = {name: np.array([own[name] for own in each], np.float64) for name in each[0]}
        for statistic, loops in self._stages:
            found = [self._folded(statistic, slot, joint, known, loop) for slot, loop in loops.items()]
            known[statistic.name] = np.array(found).T if statistic.each else np.array(found[0])
        return joint.run(self._map, known, "output")

    def _folded(
        self, statistic: Statistic, slot: Slot, joint: _Joint, known: Mapping[str, Array], loop: Joined
    ) -> list[float]:
        """A statistic of each tensor."""
        values, _ = joint.run(loop, known, "expression")
        if isinstance(statistic.fold, Rank):
            return list(_ranked(joint.parts(values), self._ranks(statistic.fold, slot, joint.sizes)))
        assert isinstance(statistic.fold, Total)
        finish, more = statistic.fold.finished, self._parameter(statistic.fold.by, slot)
        totals = _totals(*sums_of_each(values, joint.stops))
        return [finish(total, size, *more) for total, size in zip(totals, joint.sizes, strict=True)]

    def _ranks(self, fold: Rank, slot: Slot, sizes: Sequence[int]) -> list[int]:
        (by,) = self._parameter(fold.by, slot)
        known = {size: int(fold.rank(size, by)) for size in {*sizes}}
        return [known[size] for size in sizes]

    def _parameter(self, name: str, slot: Slot) -> tuple[float, ...]:
        if not name:
            return ()
        value = self._work.program.numbers[name]
        if isinstance(value, tuple):
            return value if slot is None else (value[slot],)
        return (value,)


def _loops(work: Work, statistic: Statistic, counts: Mapping[str, int]) -> Iterator[tuple[Slot, Joined]]:
    compute = FLOAT64 if statistic.double else work.compute
    slots: list[Slot] = list(range(work.models)) if statistic.each else [None]
    return ((slot, bind_joined(work, statistic, counts, compute, slot)) for slot in slots)


def _ranked(parts: Iterator[Array], ranks: Sequence[int]) -> Iterator[float]:
    for part, rank in zip(parts, ranks, strict=True):
        if rank:
            part.partition(rank - 1)
        yield float(part[rank - 1]) if rank else 0.0


def _totals(sums: Array, blocks: Array) -> Iterator[float]:
    """The correctly rounded sum of each tensor."""
    if len(sums) == len(blocks) and np.isfinite(sums).all():
        yield from map(math.fsum, zip(sums.tolist(), strict=True))
        return
    stops = np.cumsum(blocks)
    for first, last in zip((stops - blocks).tolist(), stops.tolist(), strict=True):
        yield exact_sum([sums[first:last]])
