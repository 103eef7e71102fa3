"""The last pass: every output tensor is computed, or copied, tile by tile, and written where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from weft.checkpoints.checkpoint import Array
from weft.engine.binding import Bound, Values, bind
from weft.engine.progress import Progress
from weft.engine.reading import Buffers, Reader
from weft.engine.runner import Runner
from weft.engine.statistics import Scope
from weft.engine.work import Copied, Tile, Work, tiles


class Sink(Protocol):
    """Where output goes: a staging area on disk, or memory."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Elements of one tensor, from `start` on. Called from several threads, each element once."""


def compute(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress) -> None:
    """Compute the tensors of a scope and report what their methods note."""
    bound = {work: _bind(scope, work, values[work]) for work in scope.works}

    def step(state: _State, tile: Tile) -> None:
        assert isinstance(tile.item, Work)
        out = state.buffers.typed("output", tile.stop - tile.start, tile.item.spec.dtype.storage)
        state.noted += bound[tile.item](tile, out, scope.reader, state.buffers, keep=False)
        _write(sink, tile, out, progress)

    states = scope.runner.run(scope.tiles(), _State, step)
    note = scope.works[0].program.note
    noted = sum(state.noted for state in states)
    if note and noted:
        progress.warning(note.text.format(count=f"{noted:,}"))


class _State:
    def __init__(self) -> None:
        self.buffers = Buffers()
        self.noted = 0


def _bind(scope: Scope, work: Work, values: Values) -> Bound:
    program = work.program
    return bind(
        work, program.element, program.functions, values, work.spec.dtype, scope.end_of(work), note=program.note
    )


def copy(copies: list[Copied], reader: Reader, runner: Runner, length: int, sink: Sink, progress: Progress) -> None:
    """Copy the tensors whose bytes are taken as they are."""

    def step(buffers: Buffers, tile: Tile) -> None:
        assert isinstance(tile.item, Copied)
        _write(sink, tile, reader.read(tile.item.operand, tile, buffers, keep=False), progress)

    runner.run((tile for item in copies for tile in tiles(item, length)), Buffers, step)


def _write(sink: Sink, tile: Tile, values: Array, progress: Progress) -> None:
    for name in (tile.item.spec.name, *tile.item.aliases):
        sink.write(name, tile.start, values)
    progress.advance(values.nbytes)
