"""A parameter's gradients, example by example, and the sum of their squares in bounded memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

CPU_TILE = 2 << 20
"""Bytes of gradients that are formed at once: what a core's cache holds, so that squaring them costs little."""
GPU_TILE = 256 << 20


class Use(ABC):
    """What one call of a layer contributes to the gradients of one parameter.

    The parameter is seen as a matrix: its first dimension, and all others together.
    """

    examples: int
    dtype: torch.dtype

    @abstractmethod
    def gradients(self, examples: slice, rows: slice) -> Tensor:
        """Some examples' gradients of some rows: examples x rows x columns, in memory of their own."""

    def add_to(self, tile: Tensor, examples: slice, rows: slice) -> None:
        """Add the same to what other uses of the parameter contributed."""
        tile += self.gradients(examples, rows)

    def squares_alone(self, total: Tensor) -> bool:
        """Add the squares without forming the gradients, where that is possible and this is the only use.

        Args:
            total: rows x columns.

        Returns:
            Whether it was done.
        """
        return False


def add_squares(uses: Sequence[Use], total: Tensor, tile_bytes: int) -> None:
    """Add, over the examples, the squares of a parameter's gradients; uses are summed before.

    Args:
        uses: of one parameter.
        total: rows x columns in float64; added to.
        tile_bytes: the most memory for gradients; one row of one example is always possible.
    """
    if len(uses) == 1 and uses[0].squares_alone(total):
        return
    first, *others = uses
    for rows, groups in _tiles(first, total, tile_bytes):
        sums = torch.zeros_like(total[rows], dtype=first.dtype)
        for examples in groups:
            tile = first.gradients(examples, rows)
            for use in others:
                use.add_to(tile, examples, rows)
            if len(tile) == 1:
                sums.addcmul_(tile[0], tile[0])
            else:
                sums += tile.square_().sum(0)
        total[rows] += sums


def _tiles(use: Use, total: Tensor, tile_bytes: int) -> Iterator[tuple[slice, list[slice]]]:
    """Ranges of rows, and for each the ranges of examples that fit beside one another."""
    count, columns = total.shape
    room = max(1, tile_bytes // use.dtype.itemsize)
    height = min(count, max(1, room // columns))
    depth = min(use.examples, max(1, room // (height * columns)))
    groups = [slice(start, start + depth) for start in range(0, use.examples, depth)]
    for start in range(0, count, height):
        yield slice(start, start + height), groups


@final
class Formed(Use):
    """Gradients that are at hand: those of small parameters.

    Args:
        gradients: examples x the parameter's shape.
    """

    def __init__(self, gradients: Tensor) -> None:
        rows = gradients.shape[1] if gradients.ndim > 1 else 1
        self._gradients = gradients.reshape(len(gradients), rows, -1)
        self.examples = len(gradients)
        self.dtype = gradients.dtype

    def gradients(self, examples: slice, rows: slice) -> Tensor:
        """A copy of the part."""
        return self._gradients[examples, rows].clone()

    def add_to(self, tile: Tensor, examples: slice, rows: slice) -> None:
        """Add the part."""
        tile += self._gradients[examples, rows]

    def squares_alone(self, total: Tensor) -> bool:
        """One sum over the examples."""
        total += self._gradients.square().sum(0)
        return True


@final
class Products(Use):
    """Gradients that are sums over positions of outer products: those of matrices.

    Args:
        left: examples x positions x rows.
        right: examples x positions x columns.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._left, self._right = left, right
        self.examples = len(left)
        self.dtype = left.dtype

    def gradients(self, examples: slice, rows: slice) -> Tensor:
        """One matrix product for each example."""
        return torch.bmm(self._left[examples, :, rows].mT, self._right[examples])

    def squares_alone(self, total: Tensor) -> bool:
        """With one position, the square of a product is the product of squares."""
        if self._left.shape[1] != 1:
            return False
        total += self._left[:, 0].square().mT @ self._right[:, 0].square()
        return True


@final
class Rows(Use):
    """Gradients that add vectors to chosen rows: those of embeddings.

    Args:
        chosen: examples x positions, row numbers.
        vectors: examples x positions x columns.
        count: of all rows.
        skipped: a row that gets no gradient, as the one for padding.
    """

    def __init__(self, chosen: Tensor, vectors: Tensor, count: int, skipped: int | None = None) -> None:
        self._chosen, self._vectors, self._count = chosen, vectors, count
        self._kept = None if skipped is None else chosen != skipped
        self.examples = len(chosen)
        self.dtype = vectors.dtype

    def gradients(self, examples: slice, rows: slice) -> Tensor:
        """The rows, mostly zero."""
        vectors = self._vectors[examples]
        height = len(range(self._count)[rows])
        tile = vectors.new_zeros(len(vectors), height, vectors.shape[-1])
        self.add_to(tile, examples, rows)
        return tile

    def add_to(self, tile: Tensor, examples: slice, rows: slice) -> None:
        """Add the vectors whose rows are in the tile."""
        chosen = self._chosen[examples]
        inside = (chosen >= rows.start) & (chosen < rows.stop)
        if self._kept is not None:
            inside &= self._kept[examples]
        example, position = inside.nonzero(as_tuple=True)
        places = (example, chosen[example, position] - rows.start)
        tile.index_put_(places, self._vectors[examples][example, position], accumulate=True)

    def squares_alone(self, total: Tensor) -> bool:
        """Vectors for the same row of the same example are summed, squared, and added to that row."""
        example, position = torch.ones_like(self._chosen, dtype=torch.bool).nonzero(as_tuple=True)
        if self._kept is not None:
            example, position = self._kept.nonzero(as_tuple=True)
        keys = example * self._count + self._chosen[example, position]
        distinct, place = keys.unique(return_inverse=True)
        sums = self._vectors.new_zeros(len(distinct), self._vectors.shape[-1])
        sums.index_add_(0, place, self._vectors[example, position])
        total.index_add_(0, distinct % self._count, sums.square_().to(total.dtype))
        return True
