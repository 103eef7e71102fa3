"""The last pass: every output tensor is computed, or copied, tile by tile, and written where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.binding import Bound, Values, bind
from weft.engine.journal import Journal
from weft.engine.progress import Progress
from weft.engine.reading import Buffers, Reader
from weft.engine.runner import Runner
from weft.engine.statistics import Scope
from weft.engine.work import Copied, Item, Tile, Work, bytes_per_element, tiles
from weft.kernels.decoding import below_zero, bits_of


class Sink(Protocol):
    """Where output goes: a staging area on disk, or memory."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Elements of one tensor, from `start` on. Called from several threads."""


_VARIANCES = ("running_var", "moving_variance")
_CLAMPED = "{count} running variances would have become negative; they are 0"


def compute(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress) -> None:
    """Compute the tensors of a scope, as far as an earlier run left them to be computed.

    What their method notes on the way goes to the journal.
    """
    bound = {work: _bind(scope, work, values[work]) for work in scope.works}

    def step(buffers: Buffers, tile: Tile[Work]) -> None:
        inputs = scope.inputs(tile, buffers, keep=False)
        out = buffers.typed("output", tile.size, tile.item.spec.dtype.storage)
        tally = _noted(tile.item, bound[tile.item](inputs, tile.start, out))
        if tile.item.method and tile.item.spec.name.endswith(_VARIANCES) and (clamped := _clamp(out)):
            tally[_CLAMPED] = clamped
        inputs.finish()
        _write(sink, tile, out, progress)
        if scope.watch.vouches():
            scope.journal.wrote(tile.item.spec.name, tile.start, tile.stop, tally)

    scope.runner.run(_left(scope.tiles(), scope.journal, progress), scope.buffers, step, size=_size)
    scope.watch.finish_pass()


def _noted(work: Work, count: int) -> dict[str, int]:
    return {work.program.note.text: count} if work.program.note and count else {}


def _left(tiles: Iterable[Tile[Item]], journal: Journal, progress: Progress) -> Iterator[Tile[Item]]:
    """The parts of tiles that an earlier run did not write."""
    for tile in tiles:
        left = 0
        for start, stop in journal.left(tile.item.spec.name, tile.start, tile.stop):
            left += stop - start
            yield Tile(tile.item, start, stop)
        progress.advance((tile.size - left) * bytes_per_element(tile.item))


def _clamp(out: Array) -> int:
    """Set negative numbers in storage format to zero; how many there were."""
    negative = below_zero(out)  # -0 is no variance below zero
    bits_of(out)[negative] = 0
    return int(np.count_nonzero(negative))


def _bind(scope: Scope, work: Work, values: Values) -> Bound:
    program, end = work.program, scope.end_of(work)
    return bind(work, program.element, program.functions, values, work.spec.dtype, end, note=program.note)


def copy(
    copies: Sequence[Copied],
    reader: Reader,
    runner: Runner,
    length: int,
    sink: Sink,
    progress: Progress,
    journal: Journal,
) -> None:
    """Copy the tensors whose bytes are taken as they are, as far as an earlier run left them to be copied."""

    def step(buffers: Buffers, tile: Tile[Copied]) -> None:
        values = reader.read(tile.item.operand, tile.start, tile.stop, buffers, "copied", keep=False)
        reader.looked_at(values.nbytes)
        _write(sink, tile, values, progress)
        journal.wrote(tile.item.spec.name, tile.start, tile.stop, {})

    every = (tile for item in copies for tile in tiles(item, length))
    runner.run(_left(every, journal, progress), Buffers, step, size=_size)


def _size(tile: Tile[Any]) -> int:
    return tile.size


def _write(sink: Sink, tile: Tile[Any], values: Array, progress: Progress) -> None:
    for name in (tile.item.spec.name, *tile.item.aliases):
        sink.write(name, tile.start, values)
    progress.advance(values.nbytes)
