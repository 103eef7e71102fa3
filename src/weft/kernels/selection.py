"""Exact order statistics of a stream that is read a few times and never held: a radix search, 16 bits a round.

The bits of non-negative floats order as the floats do. Each round counts the next digit of the numbers whose higher
digits are already known to be those of the answer: two rounds for float32, four for float64. Counts are integers, so
the answer is the exact one whatever the order in which the tiles come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from weft.kernels.dtypes import DType
from weft.kernels.folds import BINS, DIGITS, count_digits, weigh_digits

Array = np.ndarray[Any, Any]
Tables = dict[int, Array]
"""For each prefix that is still sought: what a worker counted, shape [rows, BINS]."""


class Selection(ABC):
    """The answers to several questions of one kind about one stream of non-negative floats.

    Use: until `done`, stream every number through `add` into tables from `tables()` (one set per worker), then
    `advance` with all of them; `result` then answers.

    Args:
        targets: the questions: see the subclass.
        dtype: float32 or float64, the precision of the numbers.
    """

    rows: int

    def __init__(self, targets: Iterable[float], dtype: DType) -> None:
        self._bits = dtype.itemsize * 8
        self._dtype = dtype
        self._shift = self._bits - DIGITS
        self._prefix: dict[float, int] = {target: 0 for target in targets if not self._is_trivial(target)}
        self._passed: dict[float, int] = dict.fromkeys(self._prefix, 0)

    @property
    def done(self) -> bool:
        """Whether every answer is known."""
        return self._shift < 0 or not self._prefix

    def tables(self) -> Tables:
        """Empty tables for one worker."""
        return {prefix: np.zeros((self.rows, BINS), np.int64) for prefix in set(self._prefix.values())}

    def add(self, values: Array, tables: Tables) -> None:
        """Count a tile of numbers.

        Args:
            values: shape [n], non-negative, of this selection's precision.
            tables: from `tables()`; added to.
        """
        keys = values.view(np.uint32 if self._bits == 32 else np.uint64)
        for prefix, table in tables.items():
            self._count(keys, prefix, table)

    def advance(self, counted: list[Tables]) -> None:
        """End a round: combine what the workers counted and fix one more digit of every answer."""
        total: Tables = self.tables()
        for prefix in total:
            total[prefix] = np.sum([tables[prefix] for tables in counted], axis=0)
        for target, prefix in list(self._prefix.items()):
            digit, passed = self._locate(target, prefix, total[prefix])
            self._prefix[target] = (prefix << DIGITS) | digit
            self._passed[target] += passed
        self._shift -= DIGITS

    def result(self, target: float) -> float:
        """The answer to one question."""
        key = self._prefix.get(target, 0)
        storage = np.uint32 if self._bits == 32 else np.uint64
        return float(np.array([key], storage).view(self._dtype.storage)[0])

    @abstractmethod
    def _is_trivial(self, target: float) -> bool:
        """Whether the answer is 0 whatever the numbers are."""

    @abstractmethod
    def _count(self, keys: Array, prefix: int, table: Array) -> None:
        """Add to a table what the numbers with this prefix contribute, by their next digit."""

    @abstractmethod
    def _locate(self, target: float, prefix: int, table: Array) -> tuple[int, int]:
        """The next digit of the answer, and how much lies before it in the order in which we look."""


class RankSelection(Selection):
    """The m-th smallest number, for each of several ranks m (1-based). Rank 0 gives 0.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> selection, numbers = RankSelection([2], FLOAT32), np.array([3.0, 1.0, 2.0], np.float32)
        >>> while not selection.done:
        ...     tables = selection.tables()
        ...     selection.add(numbers, tables)
        ...     selection.advance([tables])
        >>> selection.result(2)
        2.0
    """

    rows = 1

    def _is_trivial(self, target: float) -> bool:
        return target < 1

    def _count(self, keys: Array, prefix: int, table: Array) -> None:
        count_digits(keys, self._shift, prefix, table[0])

    def _locate(self, target: float, prefix: int, table: Array) -> tuple[int, int]:
        cumulative = np.cumsum(table[0])
        digit = int(np.searchsorted(cumulative, int(target) - self._passed[target], side="left"))
        return digit, int(cumulative[digit] - table[0][digit])


class ShareSelection(Selection):
    """The magnitude at which the largest numbers together hold a share of the sum of squares.

    For each share F in (0, 1]: the largest t such that the squares of all numbers >= t sum to at least F times the sum
    of all squares. Sums are exact integers in units of the smallest square (for float64: of its leading 24 bits).
    """

    rows = 2

    def _is_trivial(self, target: float) -> bool:
        return False

    def _count(self, keys: Array, prefix: int, table: Array) -> None:
        low, high = table.view(np.uint64)
        weigh_digits(keys, self._squares(keys), self._shift, prefix, low, high)

    def _locate(self, target: float, prefix: int, table: Array) -> tuple[int, int]:
        masses = {int(digit): self._mass(prefix, int(digit), table) for digit in np.flatnonzero(table.any(axis=0))}
        if prefix == 0 and self._shift == self._bits - DIGITS:
            self._total = sum(masses.values())
        share = Fraction(target)
        above = 0
        for digit in sorted(masses, reverse=True):
            reached = self._passed[target] + above + masses[digit]
            if reached * share.denominator >= share.numerator * self._total:
                return digit, above
            above += masses[digit]
        return 0, above

    def _squares(self, keys: Array) -> Array:
        mantissa = 23 if self._bits == 32 else 52
        wide = keys.astype(np.uint64)
        implicit = (wide >> np.uint64(mantissa) != 0).astype(np.uint64) << np.uint64(mantissa)
        significand = (wide & np.uint64((1 << mantissa) - 1)) | implicit
        leading: Array = significand >> np.uint64(mantissa - 23)
        return leading * leading

    def _mass(self, prefix: int, digit: int, table: Array) -> int:
        low, high = table.view(np.uint64)
        leading = ((prefix << DIGITS) | digit) << self._shift
        exponent = max(leading >> (23 if self._bits == 32 else 52), 1)
        return (int(low[digit]) + (int(high[digit]) << 24)) << (2 * exponent)
