"""Passes that produce the few numbers a method must know about a whole scope before it can compute one parameter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from weft.algorithms.program import (
    BEFORE,
    Derived,
    Extreme,
    Gram,
    Number,
    Numbers,
    Program,
    Rank,
    Stage,
    Statistic,
    Total,
)
from weft.algorithms.program import Share as ShareOf
from weft.checkpoints.checkpoint import Array
from weft.engine.binding import RANK, Bindings, Bound, Values, asked_by, bind_statistic
from weft.engine.journal import Journal
from weft.engine.ranking import depends_on_place, row_length
from weft.engine.reading import Buffers, Reader, StripInputs
from weft.engine.runner import Runner
from weft.engine.snapshots import Share, Snapshots
from weft.engine.together import groups
from weft.engine.watch import Watch
from weft.engine.work import Strip, Tile, Work, strips, tiles
from weft.kernels.dtypes import FLOAT64, DType
from weft.kernels.element import Scalar
from weft.kernels.folds import BLOCK, block_products, block_sums
from weft.kernels.selection import RankSelection, Selection, ShareSelection, Tables

_SAMPLED = 1 << 17
"""Parameters from which on a sample is taken before a search."""

_STRETCH, _LEAST_SAMPLE, _LARGEST_SAMPLE = 1024, 1 << 14, 1 << 22
"""A sample is taken in stretches: enough of them to tell how much they differ. The largest is that of all models."""

Slot = int | None
"""Which model a number belongs to; None: to all together."""

_Answer = tuple[Work, Slot, int]
"""Whose number it is, and of which of the statistics that a pass is about."""


@dataclass(frozen=True)
class Scope:
    """The tensors that a statistic is about, and how to run over them.

    Attributes:
        works: the tensors; tied ones once.
        reader, runner: how they are read, and by how many threads.
        tile: elements of a tile.
        watch: examines the inputs.
        journal: remembers what is settled.
        memory: that of the one thread that all of it runs on; None if there are several.
    """

    works: Sequence[Work]
    reader: Reader
    runner: Runner
    tile: int
    watch: Watch
    journal: Journal
    memory: Buffers | None = None

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the other scopes of a merge, and from itself with fewer tensors."""
        return (self.works[0].spec.name, len(self.works))

    @property
    def is_worth_keeping(self) -> bool:
        """Whether what is found out about it is noted; a single tile is gone over again more quickly than noted."""
        return self.count > self.tile

    @cached_property
    def count(self) -> int:
        """Number of parameters."""
        return sum(work.spec.size for work in self.works)

    def end_of(self, work: Work) -> int:
        """Index of the scope's last parameter if it lies in this tensor, else -1.

        Tensors are in order of name; one with several names has the first.
        """
        return work.spec.size - 1 if work is self._last else -1

    def end_at_last(self, work: Work) -> int:
        """The same for a method that looks at each tensor on its own, though what comes before it does not."""
        program = work.program
        alone = program.is_about_the_model and not program.whole_model
        return work.spec.size - 1 if alone else self.end_of(work)

    @cached_property
    def _last(self) -> Work:
        return max(self.works, key=lambda work: min((work.spec.name, *work.aliases)))

    def buffers(self) -> Buffers:
        """Memory for a thread."""
        return Buffers() if self.memory is None else self.memory

    def may_join(self, work: Work) -> bool:
        """Whether it may be computed together with other small tensors: not what took computing and is kept, and not
        where rows or names matter.
        """
        if work.program.change is not None and depends_on_place(work.program):
            return False
        return not self._computed or all(id(o.checkpoint) not in self._computed for o in work.operands.values())

    @cached_property
    def _computed(self) -> set[int]:
        """The checkpoints that are computed as they are read."""
        every = {id(o.checkpoint): o.checkpoint for work in self.works for o in work.operands.values()}
        return {key for key, checkpoint in every.items() if checkpoint.is_computed}

    def inputs(self, strip: Strip[Work], buffers: Buffers, keep: bool) -> StripInputs:
        """What is read of a strip. Of a scope of one tile all is read once, whatever the number of passes."""
        if self.memory is not None and strip.size == self.count:
            return self._held
        return StripInputs(self.reader, strip, buffers, keep, self.watch)

    @cached_property
    def _held(self) -> StripInputs:
        strip = Strip(tuple(tiles(self.works[0], self.count)))
        return StripInputs(self.reader, strip, self.buffers(), False, self.watch)

    def tiles(self) -> Iterator[Tile[Work]]:
        """All of it, in pieces."""
        for work in self.works:
            yield from tiles(work, self.tile)


def settle(scope: Scope) -> dict[Work, Values]:
    """All numbers that the scope's scalar functions may ask for: parameters, and the statistics computed here.

    Tensors may differ in the numbers of their parameters, and even in options that choose functions: every statistic
    then runs over the whole scope with the functions of the one that asks, and each tensor's own numbers.
    """
    changes = _Settling(scope, {work: numbers(work) for work in scope.works}, BEFORE)
    own = {work: changes.of(work) for work in scope.works}
    methods = _Settling(scope, own, "", changes.count)
    return {work: methods.of(work) for work in scope.works}


class _Settling:
    """Finds out what programs ask for: of their changes, each for its own tensors; then of their methods, for all.

    Args:
        scope: which tensors.
        begin: the numbers known before.
        prefix: whose statistics: `BEFORE` those of changes, else those of methods.
        count: how many statistics were found out before.
    """

    def __init__(self, scope: Scope, begin: dict[Work, Values], prefix: str, count: int = 1) -> None:
        self._scope = scope
        self._known: dict[Any, dict[Work, Values]] = {(): begin}
        self._prefix = prefix
        self._before = count - 1
        self._ends: dict[int, Any] = {}  # for each program what is known when all its statistics are

    @property
    def count(self) -> int:
        """How many statistics were found out so far, and one."""
        return self._before + len(self._known)

    def of(self, work: Work) -> Values:
        """All that is known of a tensor."""
        if id(work.program) not in self._ends:
            self._ends[id(work.program)] = self._end(work.program)
        return self._known[self._ends[id(work.program)]][work]

    def _end(self, program: Program) -> tuple[Any, ...]:
        done: tuple[Any, ...] = ()
        for group in self._groups(program):
            known, ends = self._known[done], []
            for stage in group:
                done = (*done, stage, *_chosen(program, stage))
                ends.append(done)
            if done in self._known:
                continue
            every = _results(self._asking(group[0]), self.count, group, program, known)
            for end, stage, results in zip(ends, group, every, strict=True):
                name = stage.statistic.name
                known = {w: {**v, name: results[w]} if w in results else v for w, v in known.items()}
                self._known[end] = known
        return done

    def _groups(self, program: Program) -> Iterator[list[Stage]]:
        """Stages that one pass finds together, unless some tensor asks for one of them without the others."""
        for group in groups(program):
            if group[0].prefix == self._prefix:
                asking = [self._asking(stage).works for stage in group]
                yield from [group] if all(works == asking[0] for works in asking) else ([stage] for stage in group)

    def _asking(self, stage: Stage) -> Scope:
        """The scope of a statistic: a change is about the tensors that it happens to, and no others."""
        if not self._prefix:
            return self._scope
        asking = [work for work in self._scope.works if stage in work.program.stages]
        return self._scope if len(asking) == len(self._scope.works) else replace(self._scope, works=asking)


def numbers(work: Work) -> dict[str, Number]:
    """The numbers that are known of a tensor before anything is read."""
    return {**work.program.numbers, "length": float(row_length(work.spec.shape))}


def _results(
    scope: Scope, number: int, group: Sequence[Stage], program: Program, before: Mapping[Work, Values]
) -> Sequence[Mapping[Work, Number]]:
    """For each of some statistics that one pass finds the number of each tensor."""
    stage = group[0]
    if isinstance(stage.statistic, Derived):
        works = sorted(scope.works, key=lambda work: work.spec.name)
        known = [Numbers(w.spec.name, w.spec.shape, _own_names(stage.prefix, before[w])) for w in works]
        return [dict(zip(works, stage.statistic.compute(known), strict=True))]
    if not stage.by_tensor:
        return _Pass(scope, number, group, program, before).results()
    parts = (replace(scope, works=[work]) for work in scope.works)
    each = [_Pass(part, number, group, program, before).results() for part in parts]
    return [
        {work: number for found in results for work, number in found.items()} for results in zip(*each, strict=True)
    ]


def _own_names(prefix: str, values: Values) -> Values:
    """Numbers by the names that a part of a program gave them."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _chosen(program: Program, stage: Stage) -> Iterator[Scalar]:
    asked = asked_by(program, stage)
    return (function for name, function in program.all_functions.items() if name in asked)


@dataclass
class _Worker:
    """What one thread holds during a pass."""

    share: Share
    buffers: Buffers
    tables: dict[Slot, Tables] = field(default_factory=dict)


class _Pass:
    """One statistic over one scope, or several ranks of one expression.

    Args:
        scope: which tensors.
        number: which of the scope's statistics it is, counted from 1.
        group: what is asked.
        program: of the tensor that asks; its functions are what the expression receives.
        values: the numbers known before, for each tensor.
    """

    def __init__(
        self, scope: Scope, number: int, group: Sequence[Stage], program: Program, values: Mapping[Work, Values]
    ) -> None:
        stage = group[0]
        assert isinstance(stage.statistic, Statistic)
        self._scope = scope
        self._key = (*scope.key, number)
        self._stage = stage
        self._statistic = stage.statistic
        self._folds = [each.statistic.fold for each in group if isinstance(each.statistic, Statistic)]
        self._functions = program.all_functions
        self._values = values
        models = scope.works[0].models
        together = not (self._statistic.each or isinstance(self._statistic.fold, Gram))
        self._slots: list[Slot] = [None] if together else list(range(models))
        self._known = {slot: figure for slot in self._slots if (figure := self._told(slot)) is not None}
        self._asked = [slot for slot in self._slots if slot not in self._known]
        self._bindings = Bindings()
        self._bound = {work: {slot: self._bind(work, slot) for slot in self._asked} for work in scope.works}
        self._positions = {work: k for k, work in enumerate(scope.works)}

    def results(self) -> list[dict[Work, float | tuple[float, ...]]]:
        """Of each statistic for each tensor its number, or one for each model."""
        found = self._found() if self._asked else {}
        return [self._rows(found, k) for k in range(len(self._folds))]

    def _rows(self, found: Mapping[_Answer, float], k: int) -> dict[Work, float | tuple[float, ...]]:
        rows = {
            work: tuple(self._known.get(slot, found.get((work, slot, k), 0.0)) for slot in self._slots)
            for work in self._scope.works
        }
        return {work: row[0] if self._slots == [None] else row for work, row in rows.items()}

    def _found(self) -> dict[_Answer, float]:
        """As an earlier run settled it, or measured now."""
        own = [(slot, k) for k in range(len(self._folds)) for slot in self._asked]
        places = [(work, *place) for work in self._scope.works for place in own]
        if (kept := self._scope.journal.recall(self._key)) is not None:
            self._pass_over()
            every = kept * len(self._scope.works) if len(kept) == len(own) else kept
            return dict(zip(places, map(float.fromhex, every), strict=True))
        found = self._measured()
        if self._scope.is_worth_keeping:
            numbers = [found[place].hex() for place in places]
            first = numbers[: len(own)]
            self._scope.journal.settle(self._key, first if numbers == first * len(self._scope.works) else numbers)
        return found

    def _pass_over(self) -> None:
        """Nothing is read: it was, and was in order."""
        for work, bounds in self._bound.items():
            asked = {key for bound in bounds.values() for key in bound.keys if key[0] != RANK}
            read = {work.operands[key] for key in asked}
            self._scope.watch.clear(read)
            self._scope.reader.looked_at(sum(operand.spec.nbytes for operand in read))

    def _measured(self) -> dict[_Answer, float]:
        fold = self._statistic.fold
        if isinstance(fold, Total):
            found = self._totals(fold)
        elif isinstance(fold, Gram):
            found = self._products(fold)
        elif isinstance(fold, Extreme):
            found = self._extremes(fold)
        else:
            return self._selected()
        return {(*place, 0): number for place, number in found.items()}

    def _told(self, slot: Slot) -> float | None:
        """The figure in the metadata of an auxiliary file, where the statistic may be known from there."""
        if self._statistic.known is None:
            return None
        argument, key = self._statistic.known
        operand = self._scope.works[0].operands.get((argument, slot))
        told = operand.checkpoint.metadata.get(key) if operand else None
        return float(told) if told is not None else None

    def _bind(self, work: Work, slot: Slot) -> Bound:
        values, end, compute = self._values[work], self._scope.end_of(work), self._compute(work)

        def bind() -> Bound:
            return bind_statistic(work, self._stage, self._functions, values, end, compute, slot)

        return self._bindings.of(work, values, end, slot, bind)

    def _compute(self, work: Work) -> DType:
        return FLOAT64 if self._statistic.double else work.compute

    def _evaluated(self, worker: _Worker, strip: Strip[Work], slots: Iterable[Slot]) -> Iterator[tuple[Slot, Array]]:
        """The expression over a strip, for one slot after the other, in memory that is used again."""
        inputs = self._scope.inputs(strip, worker.buffers, keep=True)
        yield from self._computed(worker, strip, inputs, slots)
        inputs.finish()

    def _computed(
        self, worker: _Worker, strip: Strip[Work], inputs: StripInputs, slots: Iterable[Slot]
    ) -> Iterator[tuple[Slot, Array]]:
        compute = self._compute(strip.item)
        out = worker.buffers.typed("expression", strip.size, compute.storage)
        for slot in slots:
            self._bound[strip.item][slot](inputs, strip.start, out)
            yield slot, out

    def _totals(self, fold: Total) -> dict[tuple[Work, Slot], float]:
        sums = self._blocks(self._asked)

        def step(worker: _Worker, strip: Strip[Work]) -> None:
            for slot, values in self._evaluated(worker, strip, self._asked):
                for tile, part in strip.parts(values):
                    _note(sums[tile.item, slot], tile, block_sums(part))

        self._gather(sums, np.add, step)
        totals = {slot: exact_sum(sums[work, slot] for work in self._scope.works) for slot in self._asked}
        return {
            (work, slot): fold.finish(totals[slot], self._scope.count, *self._parameter(work, slot, fold.by))
            for work in self._scope.works
            for slot in self._asked
        }

    def _extremes(self, fold: Extreme) -> dict[tuple[Work, Slot], float]:
        largest = fold.which == "largest"
        ufunc, start = (np.maximum, -np.inf) if largest else (np.minimum, np.inf)
        found = self._blocks(self._asked, start)

        def step(worker: _Worker, strip: Strip[Work]) -> None:
            for slot, values in self._evaluated(worker, strip, self._asked):
                for tile, part in strip.parts(values):
                    _note(found[tile.item, slot], tile, ufunc.reduceat(part, range(0, len(part), BLOCK)))

        self._gather(found, ufunc, step)
        every = {slot: np.concatenate([found[work, slot] for work in self._scope.works]) for slot in self._asked}
        return {(work, slot): float(ufunc.reduce(every[slot])) for work in self._scope.works for slot in self._asked}

    def _products(self, fold: Gram) -> dict[tuple[Work, Slot], float]:
        models = [slot for slot in self._slots if slot is not None]
        pairs = [(i, j) for i in models for j in models if i <= j]
        sums = self._blocks(pairs)

        def step(worker: _Worker, strip: Strip[Work]) -> None:
            kind = self._compute(strip.item).storage
            rows = worker.buffers.typed("rows", len(models) * strip.size, kind).reshape(len(models), -1)
            for slot, values in self._evaluated(worker, strip, models):
                rows[slot] = values
            for i, j in pairs:
                for (tile, one), (_, other) in zip(strip.parts(rows[i]), strip.parts(rows[j]), strict=True):
                    _note(sums[tile.item, (i, j)], tile, block_products(one, other))

        self._gather(sums, np.add, step)
        total = {pair: exact_sum(sums[work, pair] for work in self._scope.works) for pair in pairs}
        gram = [[total[min(i, j), max(i, j)] for j in models] for i in models]
        finished = {work: fold.finish(gram, self._values[work]) for work in self._scope.works}
        return {(work, slot): finished[work][slot] for work in self._scope.works for slot in models}

    def _blocks(self, parts: Iterable[Hashable], start: float = 0.0) -> dict[tuple[Work, Any], Array]:
        """For each tensor and each of some parts, a number for every canonical block; of one part, one array."""
        stops = np.cumsum([0, *(-(-work.spec.size // BLOCK) for work in self._scope.works)]).tolist()
        places = [(work, stops[k], stops[k + 1]) for k, work in enumerate(self._scope.works)]
        wholes = {part: np.full(stops[-1], start) for part in parts}
        return {(work, part): whole[a:b] for part, whole in wholes.items() for work, a, b in places}

    def _gather(
        self,
        numbers: Mapping[tuple[Work, Any], Array],
        merge: Callable[[Array, Array], Any],
        step: Callable[[_Worker, Strip[Work]], None],
    ) -> None:
        """Fill in the blocks' numbers."""
        named = {str(part): array.base for (_, part), array in numbers.items() if array.base is not None}
        snapshots = self._snapshots(0, merge, named, {})
        self._sweep(snapshots, lambda: _Worker(snapshots.share({}), self._scope.buffers()), step)

    def _selected(self) -> dict[_Answer, float]:
        fold = self._statistic.fold
        targets = {
            (work, slot, k): self._target(own, work, slot)
            for k, own in enumerate(self._folds)
            for work in self._scope.works
            for slot in self._asked
            if isinstance(own, (Rank, ShareOf))
        }
        if isinstance(fold, Rank) and len(self._scope.works) == 1 and self._scope.count <= self._scope.tile:
            return self._ranked_at_once(targets)
        compute = self._compute(self._scope.works[0])
        wanted = {slot: {target for (_, s, _), target in targets.items() if s == slot} for slot in self._asked}
        selections: dict[Slot, Selection] = {
            slot: RankSelection(asked, compute, fold.signed)
            if isinstance(fold, Rank)
            else ShareSelection(asked, compute)
            for slot, asked in wanted.items()
        }
        rounds = 0
        if self._scope.count >= _SAMPLED:
            self._learn(selections)
        while unfinished := {slot: s for slot, s in selections.items() if not s.done}:
            self._count(unfinished, rounds)
            rounds += 1
        return {place: selections[place[1]].result(target) for place, target in targets.items()}

    def _ranked_at_once(self, targets: Mapping[_Answer, float]) -> dict[_Answer, float]:
        """The same order statistics where one tile holds the whole scope: no tables, and one look."""
        strip = Strip(tuple(self._scope.tiles()))
        found: dict[_Answer, float] = {}
        for slot, values in self._evaluated(_Worker(Share({}), self._scope.buffers()), strip, self._asked):
            ranks = {place: int(target) for place, target in targets.items() if place[1] == slot}
            parted = np.partition(values, [rank - 1 for rank in {*ranks.values()} if rank] or 0)
            found |= {place: float(parted[rank - 1]) if rank else 0.0 for place, rank in ranks.items()}
        self._scope.watch.finish_pass()
        return found

    def _count(self, selections: Mapping[Slot, Selection], number: int) -> None:
        """One round of all searches."""

        def start() -> _Worker:
            tables = {slot: selection.tables() for slot, selection in selections.items()}
            return _Worker(snapshots.share(_named(tables)), self._scope.buffers(), tables)

        def step(worker: _Worker, strip: Strip[Work]) -> None:
            for slot, values in self._evaluated(worker, strip, selections):
                selections[slot].add(values, worker.tables[slot])

        merge = next(iter(selections.values())).merge
        before = {slot: selection.tables() for slot, selection in selections.items()}
        snapshots = self._snapshots(number, merge, {}, {name: table.shape for name, table in _named(before).items()})
        workers = self._sweep(snapshots, start, step)
        for name, table in _named(before).items():
            if name in snapshots.restored:
                merge(table, snapshots.restored[name])
        for slot, selection in selections.items():
            selection.advance([before[slot], *(worker.tables[slot] for worker in workers)])

    def _learn(self, selections: Mapping[Slot, Selection]) -> None:
        """Let the searches begin where a sample says that the answers are."""
        pieces = list(_sampled(self._scope, len(selections)))
        if not pieces:
            return
        compute = self._compute(self._scope.works[0])
        unwatched = Watch("ignore", self._scope.journal)  # all of it will be gone over anyway
        samples = {slot: np.zeros((len(pieces), _STRETCH), compute.storage) for slot in selections}

        def step(worker: _Worker, task: tuple[int, Tile[Work]]) -> None:
            row, tile = task
            inputs = StripInputs(self._scope.reader, Strip((tile,)), worker.buffers, False, unwatched)
            for slot, values in self._computed(worker, Strip((tile,)), inputs, selections):
                samples[slot][row] = values

        self._scope.runner.run(enumerate(pieces), lambda: _Worker(Share({}), Buffers()), step)
        self._scope.runner.run(
            selections.items(), lambda: None, lambda _, task: task[1].expect(samples[task[0]], self._scope.count)
        )

    def _snapshots(
        self,
        number: int,
        merge: Callable[[Array, Array], Any],
        together: Mapping[str, Array],
        expected: Mapping[str, tuple[int, ...]],
    ) -> Snapshots:
        """What is kept of one sweep over the scope, and what an earlier run kept of it."""
        file = None
        if self._scope.journal.folder and self._scope.is_worth_keeping:
            name = hashlib.sha256(repr((*self._key, number)).encode()).hexdigest()[:16]
            file = self._scope.journal.folder / name
        return Snapshots(file, self._scope.watch.vouches, merge, together, expected)

    def _sweep(
        self, snapshots: Snapshots, start: Callable[[], _Worker], step: Callable[[_Worker, Strip[Work]], None]
    ) -> list[_Worker]:
        """Go over all tiles that an earlier run did not count already."""

        def counted(worker: _Worker, strip: Strip[Work]) -> None:
            with worker.share.counting((self._positions[t.item], t.start, t.stop) for t in strip.tiles):
                step(worker, strip)
            snapshots.keep_if_due()

        left = strips(self._left(snapshots), self._alike, self._scope.tile)
        workers = self._scope.runner.run(left, start, counted, size=_size)
        self._scope.watch.finish_pass()
        snapshots.keep_finished()
        return workers

    def _alike(self, work: Work) -> Hashable:
        if not self._scope.may_join(work):
            return None
        return tuple(bound.alike for bound in self._bound[work].values())

    def _left(self, snapshots: Snapshots) -> Iterator[Tile[Work]]:
        for tile in self._scope.tiles():
            for start, stop in snapshots.left(self._positions[tile.item], tile.start, tile.stop):
                yield Tile(tile.item, start, stop)

    def _target(self, fold: Rank | ShareOf, work: Work, slot: Slot) -> float:
        (value,) = self._parameter(work, slot, fold.by)
        return float(fold.rank(self._scope.count, value)) if isinstance(fold, Rank) else value

    def _parameter(self, work: Work, slot: Slot, name: str) -> tuple[float, ...]:
        if not name:
            return ()
        value = self._values[work][self._stage.prefix + name]
        if isinstance(value, tuple):
            return value if slot is None else (value[slot],)
        return (value,)


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


def _note(numbers: Array, tile: Tile[Work], found: Array) -> None:
    """Put the numbers of a tile's blocks in their places."""
    first = tile.start // BLOCK
    numbers[first : first + len(found)] = found


def _size(strip: Strip[Work]) -> int:
    return strip.size


def _named(tables: Mapping[Slot, Tables]) -> dict[str, Array]:
    """Tables by names that a file can have."""
    return {f"{slot} {prefix}": table for slot, by_prefix in tables.items() for prefix, table in by_prefix.items()}


def exact_sum(arrays: Iterable[Array]) -> float:
    """The correctly rounded sum; infinite or not a number where the terms are, or where it leaves the range."""
    flat = np.concatenate(list(arrays))
    try:
        return math.fsum(flat.tolist()) if np.isfinite(flat).all() else float(flat.sum())
    except OverflowError:
        return float(flat.sum())
