"""The last pass: every output tensor is computed, or copied, tile by tile, and written where it belongs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.binding import Bindings, Bound, Values, bind_map
from weft.engine.journal import Journal
from weft.engine.progress import Progress
from weft.engine.reading import Buffers, Reader
from weft.engine.runner import Runner
from weft.engine.scope import Scope
from weft.engine.whole import Allowance, computed, is_whole, moved, need
from weft.engine.work import Copied, Item, Strip, Tile, Work, bytes_per_element, strips, tiles
from weft.kernels.decoding import below_zero, bits_of


class Sink(Protocol):
    """Where output goes: a staging area on disk, or memory."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Elements of one tensor, from `start` on. Called from several threads."""

    def write_whole(self, names: Sequence[str], sizes: Sequence[int], values: Array) -> None:
        """All elements of several tensors, one after the other."""


_VARIANCES = ("running_var", "moving_variance")
_CLAMPED = "{count} running variances would have become negative; they are 0"


@dataclass(frozen=True)
class Bench:
    """With what tensors are computed that a method sees whole.

    Attributes:
        allowance: memory for them.
        device: where torch computes.
    """

    allowance: Allowance
    device: str = "cpu"


def compute(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress, bench: Bench) -> None:
    """Compute the tensors of a scope, as far as an earlier run left them to be computed.

    What their method notes on the way goes to the journal.
    """
    _compute_tiles(scope, values, sink, progress)
    _compute_whole(scope, values, sink, progress, bench)
    scope.watch.finish_pass()


def _compute_whole(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress, bench: Bench) -> None:
    """Those that their method sees whole, one in each thread."""

    def step(_: None, work: Work) -> None:
        tile = Tile(work, 0, work.spec.size)
        if not any(True for _ in scope.journal.left(work.spec.name, 0, work.spec.size)):
            progress.advance(moved(work))
            return
        with bench.allowance.of(need(work)):
            done = computed(scope, work, values[work], bench.device)
            if done is None:
                return
            out, found = done
            if is_variance(work) and (clamped := _clamp(out)):
                found.tally[_CLAMPED] = clamped
            _write(sink, Strip((tile,)), out, progress)
        if scope.watch.vouches():
            scope.journal.wrote([tile], found.tally, found.figures)

    scope.runner.run((work for work in scope.works if is_whole(work)), lambda: None, step)


def _compute_tiles(scope: Scope, values: Mapping[Work, Values], sink: Sink, progress: Progress) -> None:
    tiled = (work for work in scope.works if not is_whole(work))
    bindings = Bindings()

    def bind(work: Work) -> Bound:
        own, end = values[work], scope.end_at_last(work)
        return bindings.of(work, own, end, None, lambda: bind_map(work, own, work.spec.dtype, end))

    bound = {work: bind(work) for work in tiled}

    def step(buffers: Buffers, strip: Strip[Work]) -> None:
        inputs = scope.inputs(strip, buffers, keep=False)
        out = buffers.typed("output", strip.size, strip.item.spec.dtype.storage)
        tally = noted(strip.item, bound[strip.item](inputs, strip.start, out))
        if is_variance(strip.item) and (clamped := _clamp(out)):
            tally[_CLAMPED] = clamped
        inputs.finish()
        _write(sink, strip, out, progress)
        if scope.watch.vouches():
            scope.journal.wrote(strip.tiles, tally)

    def alike(work: Work) -> Hashable:
        if work.aliases or is_variance(work) or not scope.may_join(work):
            return None
        return (work.spec.dtype, *bound[work].alike)

    tiles = (tile for tile in scope.tiles() if tile.item in bound)
    left = strips(_left(tiles, scope.journal, progress), alike, scope.tile)
    scope.runner.run(left, scope.buffers, step, size=_size)


def is_variance(work: Work) -> bool:
    """Whether these are running variances, which may not become negative."""
    return work.method is not None and work.spec.name.endswith(_VARIANCES)


def noted(work: Work, count: int) -> dict[str, int]:
    """What is told of a count of what the method notes."""
    return {work.program.note.text: count} if work.program.note and count else {}


def _left(tiles: Iterable[Tile[Item]], journal: Journal, progress: Progress) -> Iterator[Tile[Item]]:
    """The parts of tiles that an earlier run did not write."""
    for tile in tiles:
        left = list(journal.left(tile.item.spec.name, tile.start, tile.stop))
        for start, stop in left:
            yield Tile(tile.item, start, stop)
        if left != [(tile.start, tile.stop)]:
            done = tile.size - sum(stop - start for start, stop in left)
            progress.advance(done * bytes_per_element(tile.item))


def _clamp(out: Array) -> int:
    """Set negative numbers in storage format to zero; how many there were."""
    negative = below_zero(out)  # -0 is no variance below zero
    bits_of(out)[negative] = 0
    return int(np.count_nonzero(negative))


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
        _write(sink, Strip((tile,)), values, progress)
        journal.wrote([tile], {})

    every = (tile for item in copies for tile in tiles(item, length))
    runner.run(_left(every, journal, progress), Buffers, step, size=_size)


def _size(task: Tile[Any] | Strip[Any]) -> int:
    return task.size


def _write(sink: Sink, strip: Strip[Any], values: Array, progress: Progress) -> None:
    if len(strip.tiles) == 1:
        for name in (strip.item.spec.name, *strip.item.aliases):
            sink.write(name, strip.start, values)
    else:
        sink.write_whole([t.item.spec.name for t in strip.tiles], [t.size for t in strip.tiles], values)
    progress.advance(values.nbytes)
