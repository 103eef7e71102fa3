"""One expression of a program, gone over for all parameters of a scope."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.algorithms.program import Program, Stage, Statistic
from weft.checkpoints.checkpoint import Array
from weft.engine.binding import RANK, Bindings, Bound, Values, bind_statistic
from weft.engine.reading import Buffers, StripInputs
from weft.engine.scope import Scope
from weft.engine.snapshots import Share, Snapshots
from weft.engine.work import Strip, Tile, Work, strips
from weft.kernels.dtypes import FLOAT64, DType
from weft.kernels.selection import Tables

Slot = int | None
"""Which model a number belongs to; None: to all together."""


@dataclass
class Worker:
    """What one thread holds during a pass."""

    share: Share
    buffers: Buffers
    tables: dict[Slot, Tables] = field(default_factory=dict)


class Sweep:
    """The expression of one statistic, bound to every tensor of a scope, and the passes over it.

    Attributes:
        scope: which tensors.
        asked: for which models it is wanted; None for all together.

    Args:
        scope: which tensors.
        key: what tells the statistic from the others of a merge.
        stage: the statistic.
        program: of the tensor that asks; its functions are what the expression receives.
        values: the numbers known before, for each tensor.
        asked: for which models.
    """

    def __init__(
        self,
        scope: Scope,
        key: tuple[Any, ...],
        stage: Stage,
        program: Program,
        values: Mapping[Work, Values],
        asked: list[Slot],
    ) -> None:
        assert isinstance(stage.statistic, Statistic)
        self.scope, self.asked = scope, asked
        self._key = key
        self._stage, self._statistic = stage, stage.statistic
        self._functions = program.all_functions
        self._values = values
        self._bindings = Bindings()
        self._bound = {work: {slot: self._bind(work, slot) for slot in asked} for work in scope.works}
        self._positions = {work: k for k, work in enumerate(scope.works)}

    def known(self, work: Work) -> Values:
        """What was known of a tensor before."""
        return self._values[work]

    def parameter(self, work: Work, slot: Slot, name: str) -> tuple[float, ...]:
        """The number that goes by a name, of the tensor and model; nothing where there is no name."""
        if not name:
            return ()
        value = self._values[work][self._stage.prefix + name]
        if isinstance(value, tuple):
            return value if slot is None else (value[slot],)
        return (value,)

    def precision(self, work: Work) -> DType:
        """What the expression is computed in."""
        return FLOAT64 if self._statistic.double else work.compute

    def evaluated(self, worker: Worker, strip: Strip[Work], slots: Iterable[Slot]) -> Iterator[tuple[Slot, Array]]:
        """The expression over a strip, for one slot after the other, in memory that is used again."""
        inputs = self.scope.inputs(strip, worker.buffers, keep=True)
        yield from self.computed(worker, strip, inputs, slots)
        inputs.finish()

    def computed(
        self, worker: Worker, strip: Strip[Work], inputs: StripInputs, slots: Iterable[Slot]
    ) -> Iterator[tuple[Slot, Array]]:
        """The same of inputs that are at hand."""
        compute = self.precision(strip.item)
        out = worker.buffers.typed("expression", strip.size, compute.storage)
        for slot in slots:
            self._bound[strip.item][slot](inputs, strip.start, out)
            yield slot, out

    def sweep(
        self, snapshots: Snapshots, start: Callable[[], Worker], step: Callable[[Worker, Strip[Work]], None]
    ) -> list[Worker]:
        """Go over all tiles that an earlier run did not count already."""

        def counted(worker: Worker, strip: Strip[Work]) -> None:
            with worker.share.counting((self._positions[t.item], t.start, t.stop) for t in strip.tiles):
                step(worker, strip)
            snapshots.keep_if_due()

        left = strips(self._left(snapshots), self._alike, self.scope.tile)
        workers = self.scope.runner.run(left, start, counted, size=_size)
        self.scope.watch.finish_pass()
        snapshots.keep_finished()
        return workers

    def snapshots(
        self,
        number: int,
        merge: Callable[[Array, Array], Any],
        together: Mapping[str, Array],
        expected: Mapping[str, tuple[int, ...]],
    ) -> Snapshots:
        """What is kept of one sweep over the scope, and what an earlier run kept of it."""
        file = None
        if self.scope.journal.folder and self.scope.is_worth_keeping:
            name = hashlib.sha256(repr((*self._key, number)).encode()).hexdigest()[:16]
            file = self.scope.journal.folder / name
        return Snapshots(file, self.scope.watch.vouches, merge, together, expected)

    def pass_over(self) -> None:
        """Nothing is read: it was, and was in order."""
        for work, bounds in self._bound.items():
            asked = {key for bound in bounds.values() for key in bound.keys if key[0] != RANK}
            read = {work.operands[key] for key in asked}
            self.scope.watch.clear(read)
            self.scope.reader.looked_at(sum(operand.spec.nbytes for operand in read))

    def _bind(self, work: Work, slot: Slot) -> Bound:
        values, end, compute = self._values[work], self.scope.end_of(work), self.precision(work)

        def bind() -> Bound:
            return bind_statistic(work, self._stage, self._functions, values, end, compute, slot)

        return self._bindings.of(work, values, end, slot, bind)

    def _alike(self, work: Work) -> Hashable:
        if not self.scope.may_join(work):
            return None
        return tuple(bound.alike for bound in self._bound[work].values())

    def _left(self, snapshots: Snapshots) -> Iterator[Tile[Work]]:
        for tile in self.scope.tiles():
            for start, stop in snapshots.left(self._positions[tile.item], tile.start, tile.stop):
                yield Tile(tile.item, start, stop)


def _size(strip: Strip[Work]) -> int:
    return strip.size
