"""Exact order statistics of a stream that is gone over a few times and never held.

The bits of non-negative floats order as the floats do, so the search is one over whole numbers, called keys. Counts
are whole numbers too: the answer is the exact one whatever the order in which the tiles come. What is not a number
counts as larger than all that are, whatever its sign bit, which differs between processors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np

from weft.kernels.dtypes import DType
from weft.kernels.folds import BINS, COUNTS, DIGITS, HIGHEST, LOWEST, count_between, turn_keys, weigh_digits

Array = np.ndarray[Any, Any]
Tables = dict[Any, Array]
"""What a worker counted, for each part of the range that is still searched."""

_CAUTION = 3.0
"""Standard errors of a sample by which a bracket is wider than the place where the answer seems to be."""


class Selection(ABC):
    """The answers to several questions of one kind about one stream of non-negative floats.

    Use: until `done`, stream every number through `add` into tables from `tables()` (one set per worker), then
    `advance` with all of them; `result` then answers.
    """

    table_bytes: int
    """What one table takes; a worker has one for every question at most."""

    def __init__(self, dtype: DType) -> None:
        self._bits = dtype.itemsize * 8
        self._dtype = dtype
        self._mask = (1 << (self._bits - 1)) - 1
        """The bits that order numbers which are not negative. Only what is not a number has the sign bit set."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether every answer is known."""

    @abstractmethod
    def tables(self) -> Tables:
        """Empty tables for one worker."""

    @abstractmethod
    def add(self, values: Array, tables: Tables) -> None:
        """Count a tile of numbers.

        Args:
            values: shape [n], non-negative, of this selection's precision.
            tables: from `tables()`; added to.
        """

    @staticmethod
    @abstractmethod
    def merge(table: Array, other: Array) -> None:
        """Add to a table what another worker counted."""

    @abstractmethod
    def advance(self, counted: Sequence[Tables]) -> None:
        """End a round: combine what the workers counted and come nearer to every answer."""

    @abstractmethod
    def result(self, target: float) -> float:
        """The answer to one question."""

    def expect(self, sample: Array, population: int) -> None:  # noqa: B027 - not every search can use a sample
        """Learn from a sample where the answers may lie. What is wrong in it costs time, never exactness.

        Args:
            sample: stretches of the stream, shape [stretches, n], of this selection's precision.
            population: how many numbers the stream has.
        """

    def _keys(self, values: Array) -> Array:
        return values.view(np.uint32 if self._bits == 32 else np.uint64)

    def _number(self, key: int) -> float:
        storage = np.uint32 if self._bits == 32 else np.uint64
        return float(np.array([key], storage).view(self._dtype.storage)[0])

    def _merged(self, counted: Sequence[Tables]) -> Tables:
        total = self.tables()
        for tables in counted:
            for part, table in total.items():
                self.merge(table, tables[part])
        return total


@dataclass(frozen=True)
class _Range:
    """Keys among which an answer is: from `low` up to, but without, `high`."""

    low: int
    high: int

    @property
    def shift(self) -> int:
        """How many low bits of a key's distance from `low` are left out to find its bin."""
        return max((self.high - self.low - 1).bit_length() - DIGITS, 0)

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return ((self.high - self.low - 1) >> self.shift) + 1

    @property
    def is_found(self) -> bool:
        """Whether there is only one key left."""
        return self.high - self.low == 1


class RankSelection(Selection):
    """The m-th smallest number, for each of several ranks m (1-based). Rank 0 gives 0.

    A round counts the keys below a range, and those in it by bins, noting the lowest and the highest key of each bin:
    where the two are one, the answer is found. From the whole range, two rounds do for float32. A bracket from a
    sample mostly makes it one, in which few keys are in the range at all; should the answer lie outside, the count of
    the keys below tells, and the search goes on there.

    Args:
        targets: the ranks.
        dtype: float32 or float64, the precision of the numbers.
        signed: whether there may be negative numbers. Their bits are then turned so that they order as the numbers do,
            which takes a pass more over each tile; -0 comes just before 0.

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

    table_bytes = 3 * 8 * (BINS + 1)

    def __init__(self, targets: Iterable[float], dtype: DType, signed: bool = False) -> None:
        super().__init__(dtype)
        self._signed = signed
        self._infinity = int(np.array([np.inf], dtype.storage).view(f"u{dtype.itemsize}")[0])
        if signed:
            self._mask = (1 << self._bits) - 1
        # keys from here on, as those with the sign bit if not signed, are only of what is not a number
        self._top = self._mask if signed else self._mask + 1
        self._ranges = {int(target): _Range(0, self._top) for target in targets if target >= 1}
        self._count = 0

    @property
    def done(self) -> bool:
        """Whether every answer is known."""
        return all(where.is_found for where in self._ranges.values())

    def tables(self) -> Tables:
        """Empty tables for one worker."""
        made: Tables = {}
        for where in set(self._ranges.values()):
            if not where.is_found:
                table = made[where] = np.zeros((3, where.bins + 1), np.int64)
                table[LOWEST] = -1  # as an unsigned number the largest: none yet
        return made

    def add(self, values: Array, tables: Tables) -> None:
        """Count a tile of numbers."""
        keys = self._keys(values)
        for where, table in tables.items():
            count_between(keys, where.low, where.high - where.low, where.shift, table)

    @staticmethod
    def merge(table: Array, other: Array) -> None:
        """Add to a table what another worker counted."""
        table[COUNTS] += other[COUNTS]
        ours, theirs = table.view(np.uint64), other.view(np.uint64)
        np.minimum(ours[LOWEST], theirs[LOWEST], out=ours[LOWEST])
        np.maximum(ours[HIGHEST], theirs[HIGHEST], out=ours[HIGHEST])

    def advance(self, counted: Sequence[Tables]) -> None:
        """End a round: combine what the workers counted and come nearer to every answer."""
        total = self._merged(counted)
        for rank, where in self._ranges.items():
            if not where.is_found:
                self._ranges[rank] = self._narrowed(rank, where, total[where])

    def result(self, target: float) -> float:
        """The answer to one question."""
        return self._number(self._ranges[int(target)].low) if target >= 1 else 0.0

    def expect(self, sample: Array, population: int) -> None:
        """Begin with a bracket around the place that a rank has in a sample.

        The standard error of that place is taken from how much the stretches differ among themselves, since numbers
        that lie near each other are alike.
        """
        for rank in self._ranges:
            self._ranges[rank] = self._bracket(sample, min(rank / population, 1.0))

    def _keys(self, values: Array) -> Array:
        keys = super()._keys(values)
        if not self._signed:
            return keys
        turned = np.empty_like(keys)
        turn_keys(keys, self._infinity, turned)
        return turned

    def _number(self, key: int) -> float:
        if not self._signed:
            return super()._number(key)
        sign = 1 << (self._bits - 1)
        above = key - self._infinity - 1
        return super()._number(min(above, sign - 1) if above >= 0 else (sign | self._infinity) - key)

    def _bracket(self, sample: Array, share: float) -> _Range:
        """The keys between two numbers of a sample, so far apart that the answer is hardly anywhere else."""
        place = min(int(share * sample.size), sample.size - 1)
        parted = np.partition(sample.reshape(-1), place)
        below = np.count_nonzero(sample < parted[place], axis=1) / sample.shape[1]
        error = max(float(below.std()) / sqrt(len(sample)), sqrt(share * (1 - share) / sample.size))
        margin = int(_CAUTION * error * sample.size) + 2
        first, last = place - margin, place + margin
        low = self._key_at(parted[: place + 1], first) if first >= 0 else 0
        high = self._key_at(parted[place:], margin) + 1 if last < sample.size else self._top
        return _Range(low, max(high, low + 2))  # a single key would pass for found, though nothing was counted

    def _key_at(self, values: Array, place: int) -> int:
        return int(self._keys(np.partition(values, place)[place : place + 1])[0]) & self._mask

    def _narrowed(self, rank: int, where: _Range, table: Array) -> _Range:
        below = int(table[COUNTS, -1])
        reached = below + np.cumsum(table[COUNTS, :-1])
        if rank <= below:
            return _Range(0, where.low)
        if rank > reached[-1]:  # and if none of those keys is left, no number either
            return _Range(min(where.high, self._top - 1), self._top)
        found = int(np.searchsorted(reached, rank, side="left"))
        distances = table.view(np.uint64)
        return _Range(where.low + int(distances[LOWEST, found]), where.low + int(distances[HIGHEST, found]) + 1)


class ShareSelection(Selection):
    """The magnitude at which the largest numbers together hold a share of the sum of squares.

    For each share F in (0, 1]: the largest t such that the squares of all numbers >= t sum to at least F times the sum
    of all squares. Sums are exact integers in units of the smallest square (for float64: of its leading 24 bits). A
    round fixes 16 more bits of every answer.

    Args:
        targets: the shares.
        dtype: float32 or float64, the precision of the numbers.
    """

    table_bytes = 2 * 8 * BINS

    def __init__(self, targets: Iterable[float], dtype: DType) -> None:
        super().__init__(dtype)
        self._shift = self._bits - DIGITS
        self._prefix: dict[float, int] = dict.fromkeys(targets, 0)
        self._passed: dict[float, int] = dict.fromkeys(self._prefix, 0)

    @property
    def done(self) -> bool:
        """Whether every answer is known."""
        return self._shift < 0 or not self._prefix

    def tables(self) -> Tables:
        """Empty tables for one worker."""
        return {prefix: np.zeros((2, BINS), np.int64) for prefix in set(self._prefix.values())}

    def add(self, values: Array, tables: Tables) -> None:
        """Weigh a tile of numbers."""
        keys = self._keys(values)
        for prefix, table in tables.items():
            low, high = table.view(np.uint64)
            weigh_digits(keys, self._mask, self._squares(keys), self._shift, prefix, low, high)

    @staticmethod
    def merge(table: Array, other: Array) -> None:
        """Add to a table what another worker weighed."""
        table += other

    def advance(self, counted: Sequence[Tables]) -> None:
        """End a round: fix one more digit of every answer."""
        total = self._merged(counted)
        for target, prefix in list(self._prefix.items()):
            digit, passed = self._locate(target, prefix, total[prefix])
            self._prefix[target] = (prefix << DIGITS) | digit
            self._passed[target] += passed
        self._shift -= DIGITS

    def result(self, target: float) -> float:
        """The answer to one question."""
        return self._number(self._prefix.get(target, 0))

    def _locate(self, target: float, prefix: int, table: Array) -> tuple[int, int]:
        """The next digit of the answer, and how much lies before it in the order in which we look."""
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
