"""The last pass: every output tensor is computed, or copied, tile by tile, and written where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.binding import Bound, Values, bind
from weft.engine.progress import Progress
from weft.engine.reading import Buffers, Reader, TileInputs
from weft.engine.runner import Runner
from weft.engine.statistics import Scope
from weft.engine.work import Copied, Tile, Work, tiles
from weft.kernels.decoding import below_zero, bits_of


class Sink(Protocol):
    """Where output goes: a staging area on disk, or memory."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Elements of one tensor, from `start` on. Called from several threads, each element once."""


_VARIANCES = ("running_var", "moving_variance")
_CLAMPED = "{count} running variances would have become negative; they are 0"


@dataclass
class _Worker:
    """What one thread holds: its memory, and how many elements its tiles noted and clamped."""

    buffers: Buffers = field(default_factory=Buffers)
    noted: int = 0
    clamped: int = 0


def compute(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress) -> tuple[str, ...]:
    """Compute the tensors of a scope.

    Returns:
        What their method noted, in words.
    """
    bound = {work: _bind(scope, work, values[work]) for work in scope.works}

    def step(worker: _Worker, tile: Tile[Work]) -> None:
        inputs = TileInputs(scope.reader, tile, worker.buffers, keep=False, watch=scope.watch)
        out = worker.buffers.typed("output", tile.size, tile.item.spec.dtype.storage)
        worker.noted += bound[tile.item](inputs, tile.start, out)
        if tile.item.spec.name.endswith(_VARIANCES):
            worker.clamped += _clamp(out)
        _write(sink, tile, out, progress)

    workers = scope.runner.run(scope.tiles(), _Worker, step)
    scope.watch.finish_pass()
    note = scope.works[0].program.note
    counted = [(note.text, sum(worker.noted for worker in workers))] if note else []
    counted.append((_CLAMPED, sum(worker.clamped for worker in workers)))
    return tuple(text.format(count=f"{count:,}") for text, count in counted if count)


def _clamp(out: Array) -> int:
    """Set negative numbers in storage format to zero; how many there were."""
    negative = below_zero(out)  # -0 is no variance below zero
    bits_of(out)[negative] = 0
    return int(np.count_nonzero(negative))


def _bind(scope: Scope, work: Work, values: Values) -> Bound:
    program, end = work.program, scope.end_of(work)
    return bind(work, program.element, program.functions, values, work.spec.dtype, end, note=program.note)


def copy(copies: Sequence[Copied], reader: Reader, runner: Runner, length: int, sink: Sink, progress: Progress) -> None:
    """Copy the tensors whose bytes are taken as they are."""

    def step(buffers: Buffers, tile: Tile[Copied]) -> None:
        room = partial(buffers.of, "copied")
        _write(sink, tile, reader.read(tile.item.operand, tile.start, tile.stop, room, keep=False), progress)

    runner.run((tile for item in copies for tile in tiles(item, length)), Buffers, step)


def _write(sink: Sink, tile: Tile[Any], values: Array, progress: Progress) -> None:
    for name in (tile.item.spec.name, *tile.item.aliases):
        sink.write(name, tile.start, values)
    progress.advance(values.nbytes)
