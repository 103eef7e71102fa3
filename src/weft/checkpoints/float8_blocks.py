"""Which scale belongs to which element of a float8 weight: found from the two shapes, and from what a config says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from weft.checkpoints.plain_files import read_json
from weft.errors import InputError

Shape = tuple[int, ...]

_USUAL = 128
"""The size of block that everyone uses; several sizes fit where the last block is cut off."""


@dataclass(frozen=True)
class Grid:
    """A weight as a stack of matrices, cut into blocks that have one scale each.

    Attributes:
        matrix: rows and columns of one matrix.
        block: rows and columns of a block; the last ones of a matrix may be smaller.
    """

    matrix: tuple[int, int]
    block: tuple[int, int]

    @property
    def columns(self) -> int:
        """Blocks side by side in one matrix: the length of a row of scales."""
        return _blocks(self.matrix[1], self.block[1])

    def rows(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of scales, from and up to, that the elements `start` to `stop` of the flattened weight need.

        Example:
            >>> Grid((5, 10), (2, 4)).rows(20, 71)  # rows 2 and on of the first matrix, two and a bit of the second
            (1, 5)
        """
        return self._row(start), self._row(stop - 1) + 1

    def _row(self, element: int) -> int:
        matrix, row = divmod(element // self.matrix[1], self.matrix[0])
        return matrix * _blocks(self.matrix[0], self.block[0]) + row // self.block[0]


def _blocks(length: int, block: int) -> int:
    """How many blocks cover a length."""
    return -(-length // block)


def plain_grid(weight: Shape, scale: Shape) -> Grid | None:
    """The grid of a scale that needs no size of block: one for all, or one for each row, expert or row of an expert.

    Args:
        weight: any shape.
        scale: `[]`, or ones; or the first dimensions of the weight, then ones.

    Example:
        >>> plain_grid((6, 4), (6, 1)), plain_grid((6, 4), (3, 2))
        (Grid(matrix=(6, 4), block=(1, 4)), None)
    """
    if prod(scale) == 1 or not prod(weight):
        size = max(prod(weight), 1)
        return Grid((1, size), (1, size))
    led = max(i + 1 for i, length in enumerate(scale) if length != 1)
    if len(scale) > len(weight) or scale[:led] != weight[:led]:
        return None
    columns = prod(weight[led:])
    return Grid((prod(weight[:led]), columns), (1, columns))


class Blocks:
    """The grids of block scales.

    A matrix of `d` rows with `c` rows of scales has blocks of `b` rows if `ceil(d / b) = c`. Where a config does not
    say `b`, several may fit. Only what fits all weights of the checkpoint is considered, if there is such a size. Of
    that 128 is taken, or else the only one that is a power of two or divides `d` into equal parts; where these differ,
    the only one that would do for rows and columns alike.

    Args:
        pairs: the shapes of all weights and scales of a checkpoint that are not plain.
        said: rows and columns of a block, if the config says them.
    """

    def __init__(self, pairs: Iterable[tuple[Shape, Shape]], said: tuple[int, int] | None) -> None:
        self._said = said
        known = [fits for weight, scale in pairs if (fits := _fitting(weight, scale))]
        self._common = tuple(_common([_range(*fits[axis]) for fits in known if _tells(*fits[axis])]) for axis in (0, 1))

    def grid(self, weight: Shape, scale: Shape) -> Grid | None:
        """Of a weight `[rows, columns]` or `[experts, rows, columns]` and a scale with as many dimensions.

        Returns:
            None if the scale does not fit, or the size of its blocks cannot be told.
        """
        fits = _fitting(weight, scale)
        if fits is None:
            return None
        likely = [self._likely(axis, *fit) for axis, fit in enumerate(fits)]
        alike = likely[0] & likely[1]
        rows, columns = (next(iter(s)) if len(s) == 1 else None for s in (sizes & alike or sizes for sizes in likely))
        return Grid((weight[-2], weight[-1]), (rows, columns)) if rows and columns else None

    def _likely(self, axis: int, length: int, count: int) -> set[int]:
        """Sizes of block that there is reason to believe in."""
        if self._said:
            return {self._said[axis]} if _blocks(length, self._said[axis]) == count else set()
        if not _tells(length, count):
            return {length if count == 1 else 1}
        own = _range(length, count)
        fitting = _overlap(own, self._common[axis]) or own
        return {_USUAL} if _USUAL in fitting else _natural(fitting, length, count)


def _fitting(weight: Shape, scale: Shape) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """For rows and for columns, how many there are and in how many blocks; None if the shapes do not go together."""
    if len(scale) != len(weight) or len(weight) not in (2, 3) or scale[:-2] != weight[:-2]:
        return None
    rows, columns = zip(weight[-2:], scale[-2:], strict=True)
    possible = all(1 <= count <= length and _range(length, count) for length, count in (rows, columns))
    return (rows, columns) if possible else None


def _tells(length: int, count: int) -> bool:
    """Whether it says something of the others' blocks: one block, or one for each, may stand for another scheme."""
    return 1 < count < length


def _range(length: int, count: int) -> range:
    """All sizes of block with which so many cover the length."""
    return range(_blocks(length, count), _blocks(length, count - 1) if count > 1 else length + 1)


def _common(ranges: Iterable[range]) -> range:
    """What is in all of them; empty if there is nothing, or there are none."""
    ranges = list(ranges)
    return range(max(r.start for r in ranges), min(r.stop for r in ranges)) if ranges else range(0)


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _natural(fitting: range, length: int, count: int) -> set[int]:
    """Powers of two, equal parts, and what has no alternative."""
    powers = {1 << power for power in range(length.bit_length())} & set(fitting)
    parts = {length // count} & set(fitting) if length % count == 0 else set()
    return powers | parts | (set(fitting) if len(fitting) == 1 else set())


# --- what the config says ---------------------------------------------------------------------------------------------


def said_block(path: Path | None) -> tuple[int, int] | None:
    """Rows and columns of a block, as the `config.json` beside a checkpoint says them; None if it does not.

    Args:
        path: the checkpoint's file or folder.

    Raises:
        InputError: if it says something else than two numbers.
    """
    if path is None:
        return None
    config = _config(path)
    said = {json.dumps(block): block for block in _blocks_said(config)}
    if len(said) != 1:
        return None
    [block] = said.values()
    if isinstance(block, list) and len(block) == 2 and all(type(b) is int and b > 0 for b in block):
        return block[0], block[1]
    raise InputError(
        f"{config}: the size of the blocks that share a scale, {block!r}, is not two positive numbers",
        "copy config.json from where the model came from",
    )


def said_method(path: Path | None) -> str:
    """What the `config.json` beside a checkpoint calls the way in which it is quantised; empty if it does not.

    Args:
        path: the checkpoint's file or folder.
    """
    methods = (said.get("quant_method") for said in _said(_config(path))) if path else ()
    return next((method for method in methods if isinstance(method, str)), "")


def _config(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / "config.json"


def _blocks_said(config: Path) -> Iterator[Any]:
    for said in _said(config):
        groups = _of(said, "config_groups")
        weights = [_of(_of(groups, name), "weights") for name in groups]
        yield from filter(None, [said.get("weight_block_size"), *(w.get("block_structure") for w in weights)])


def _said(config: Path) -> Iterator[Mapping[str, Any]]:
    """What a config says of quantisation, wherever it stands."""
    try:
        parsed = read_json(config)
    except (OSError, ValueError):
        return
    for place in (parsed, _of(parsed, "text_config")):
        yield from (_of(place, key) for key in ("quantization_config", "compression_config"))


def _of(mapping: Any, key: str) -> Mapping[str, Any]:
    """What is there, if it is a map; otherwise an empty one."""
    value = mapping.get(key) if isinstance(mapping, dict) else None
    return value if isinstance(value, dict) else {}
