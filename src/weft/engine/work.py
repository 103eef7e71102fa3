"""The nouns of the engine: what is read, what is computed, what is copied."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from weft.algorithms.chain import Chain
from weft.algorithms.program import Program
from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.kernels.dtypes import DType

Key = tuple[str, int | None]
"""Which argument of a scalar function, and for which model (None: one for all)."""

Signature = tuple[tuple[str, int | None, DType | None, float], ...]
"""For every argument and model how it is stored, or, if there is nothing to read, the number in its place."""


@dataclass(frozen=True, eq=False)
class Operand:
    """One tensor of one input. There is one object for each tensor that is planned."""

    checkpoint: Checkpoint
    spec: TensorSpec

    @property
    def stored_dtype(self) -> DType:
        """The format that an output made from this takes over."""
        return self.checkpoint.stored_dtype(self.spec.name)

    @property
    def file(self) -> str:
        """Which file holds it, for messages."""
        return self.checkpoint.file_of(self.spec.name)


@dataclass(frozen=True, eq=False)
class Work:
    """One output tensor that is computed.

    Attributes:
        spec: the output.
        program: how.
        method: the method's settled parameters; None for a mere change of number format.
        operands: what can be read, by argument and model.
        constants: what stands in the place of tensors that are not there: a Fisher that nobody gave is 1, a tensor
            that a model lacks is 0.
        models: how many models are merged.
        compute: the precision of the arithmetic.
        aliases: other names in the output that are this same tensor.
        rule: the patterns of the rule that decided it; empty for the recipe's own method.
    """

    spec: TensorSpec
    program: Program
    method: Chain | None
    operands: Mapping[Key, Operand]
    constants: Mapping[Key, float]
    models: int
    compute: DType
    aliases: tuple[str, ...] = ()
    rule: str = ""

    @cached_property
    def signature(self) -> Signature:
        """What decides which machine code computes it, as far as its inputs do."""
        read = [(name, of, operand.spec.dtype, 1.0) for (name, of), operand in self.operands.items()]
        return (*read, *((name, of, None, number) for (name, of), number in self.constants.items()))


@dataclass(frozen=True, eq=False)
class Copied:
    """One output tensor whose bytes are taken as they are."""

    spec: TensorSpec
    operand: Operand
    aliases: tuple[str, ...] = ()
    rule: str = ""


Item = TypeVar("Item", Work, Copied)


@dataclass(frozen=True)
class Tile(Generic[Item]):
    """A range of one output tensor."""

    item: Item
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class Strip(Generic[Item]):
    """What is computed in one go: a tile; or several small tensors, whole, that are computed alike.

    For a model of many small tensors it is the number of calls that costs, not the number of elements.
    """

    tiles: tuple[Tile[Item], ...]

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return sum(tile.size for tile in self.tiles)

    @property
    def start(self) -> int:
        """Index of the first element in its tensor."""
        return self.tiles[0].start

    @property
    def item(self) -> Item:
        """The first tensor, which in all that matters for computing stands for the others."""
        return self.tiles[0].item

    def parts(self, values: Array) -> Iterator[tuple[Tile[Item], Array]]:
        """What belongs to each tile of something that was read, or computed, for all of them."""
        at = 0
        for tile in self.tiles:
            yield tile, values[at : at + tile.size]
            at += tile.size


def strips(tiles: Iterable[Tile[Item]], alike: Callable[[Item], Hashable], longest: int) -> Iterator[Strip[Item]]:
    """Join tiles that follow each other, are whole tensors and are computed alike.

    Args:
        tiles: in order.
        alike: equal for tensors that may be joined; None for one that may not be.
        longest: elements of a strip of several tiles.
    """
    joined: list[Tile[Item]] = []
    kind: Hashable = None
    total = 0
    for tile in tiles:
        own = alike(tile.item) if 2 * tile.size <= longest and tile.size == tile.item.spec.size else None
        if joined and (own is None or own != kind or total + tile.size > longest):
            yield Strip(tuple(joined))
            joined, total = [], 0
        if own is None:
            yield Strip((tile,))
            continue
        kind, total = own, total + tile.size
        joined.append(tile)
    if joined:
        yield Strip(tuple(joined))


def bytes_per_element(item: Work | Copied) -> int:
    """Bytes of input and output that one element of a tensor takes."""
    if isinstance(item, Copied):
        return 2 * item.spec.dtype.itemsize
    return item.spec.dtype.itemsize + sum(operand.spec.dtype.itemsize for operand in item.operands.values())


def tiles(item: Item, length: int) -> Iterator[Tile[Item]]:
    """A tensor cut into ranges of at most `length` elements."""
    for start in range(0, item.spec.size, length):
        yield Tile(item, start, min(start + length, item.spec.size))
