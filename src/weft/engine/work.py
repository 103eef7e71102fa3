"""The nouns of the engine: what is read, what is computed, what is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from weft.algorithms.method import Method, Program
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.kernels.dtypes import DType

Key = tuple[str, int | None]
"""Which argument of a scalar function, and for which model (None: one for all)."""

Signature = tuple[tuple[str, int | None, DType | None, float], ...]
"""For every argument and model how it is stored, or, if there is nothing to read, the number in its place."""


@dataclass(frozen=True)
class Operand:
    """One tensor of one input."""

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
    method: Method | None
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


def bytes_per_element(item: Work | Copied) -> int:
    """Bytes of input and output that one element of a tensor takes."""
    if isinstance(item, Copied):
        return 2 * item.spec.dtype.itemsize
    return item.spec.dtype.itemsize + sum(operand.spec.dtype.itemsize for operand in item.operands.values())


def tiles(item: Item, length: int) -> Iterator[Tile[Item]]:
    """A tensor cut into ranges of at most `length` elements."""
    for start in range(0, item.spec.size, length):
        yield Tile(item, start, min(start + length, item.spec.size))
