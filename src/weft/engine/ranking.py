"""The places that parameters have in their rows, for changes of task vectors that ask for `rank`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from weft.algorithms.program import BEFORE, Program
from weft.checkpoints.checkpoint import Array
from weft.engine.binding import arguments, bind_ranking
from weft.engine.work import Key, Tile, Work
from weft.kernels.dtypes import FLOAT32
from weft.kernels.ranks import rank_rows

if TYPE_CHECKING:
    from weft.engine.reading import Buffers

BYTES = 48
"""Bytes that ordering takes for each parameter of one row, beside what is ordered and the ranks."""


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


def ranked(tile: Tile[Work], model: int, read: Callable[[Key], Array], buffers: Buffers) -> Array:
    """The rank in its row of every parameter of a tile, as float32.

    Args:
        tile: which parameters.
        model: whose changes are ordered.
        read: gives an input in all rows that the tile lies in, also those that it cuts.
        buffers: the thread's memory.
    """
    work = tile.item
    first, last = rows_around(work, tile.start, tile.stop)
    values = buffers.typed((BEFORE, "ordered"), last - first, work.compute.storage)
    bind_ranking(work, model)(read, first, values)
    places = buffers.typed((BEFORE, "rank", model), last - first, FLOAT32.storage)
    rank_rows(values, row_length(work.spec.shape), places)
    return places[tile.start - first : tile.stop - first]
