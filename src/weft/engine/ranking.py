"""The places that parameters have in their rows, for changes of task vectors that ask for `rank`."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from weft.algorithms.program import BEFORE, Program
from weft.checkpoints.checkpoint import Array
from weft.engine.binding import arguments, bind_ranking
from weft.engine.work import Key, Tile, Work
from weft.kernels.dtypes import FLOAT32
from weft.kernels.ranks import rank_rows

if TYPE_CHECKING:
    from weft.engine.reading import Buffers, Reader

BYTES = 24
"""Bytes that ordering takes for each parameter beside what it reads: what is ordered, two pairs of key and place."""


def row_length(shape: tuple[int, ...]) -> int:
    """Parameters of a row: the last dimension. One of no dimension is a row of its own.

    Example:
        >>> row_length((3, 5)), row_length((7,)), row_length(())
        (5, 7, 1)
    """
    return shape[-1] if shape else 1


def depends_on_place(program: Program) -> bool:
    """Whether a parameter's row, or its tensor's name, has a say in what becomes of it."""
    change = program.change
    return change is not None and (change.ranking is not None or "draw" in arguments(change.element))


def rows_around(work: Work, start: int, stop: int) -> tuple[int, int]:
    """Where the rows begin and end that a range of a tensor lies in."""
    length = max(row_length(work.spec.shape), 1)
    return start // length * length, min(-(-stop // length) * length, prod(work.spec.shape))


def ranked(reader: Reader, tile: Tile[Work], model: int, buffers: Buffers) -> Array:
    """The rank in its row of every parameter of a tile, as float32: rows that it cuts are read whole.

    Args:
        reader: reads.
        tile: which parameters.
        model: whose changes are ordered.
        buffers: the thread's memory.
    """
    work = tile.item
    first, last = rows_around(work, tile.start, tile.stop)

    def read(key: Key) -> Array:
        of = ("tuned", model) if key[0] == "tuned" else key
        return reader.read(work.operands[of], first, last, buffers, (BEFORE, key[0]), keep=False)

    values = buffers.typed((BEFORE, "ordered"), last - first, work.compute.storage)
    bind_ranking(work, model)(read, first, values)
    places = buffers.typed((BEFORE, "rank", model), last - first, FLOAT32.storage)
    rank_rows(values, row_length(work.spec.shape), places)
    return places[tile.start - first : tile.stop - first]
