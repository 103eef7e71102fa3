"""What one pass over a tensor's stored bits tells about its numbers."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.kernels.compiler import Input, Loop, compiled
from weft.kernels.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType, compute_dtype
from weft.kernels.element import element
from weft.kernels.float8 import table
from weft.kernels.native import native

CHUNK = 1 << 16
"""Elements that are looked at together; their squares stay in the second-level cache."""

_MAGNITUDE = {2: 0x7FFF, 4: 0x7FFFFFFF, 8: 0x7FFFFFFFFFFFFFFF}
_INFINITY = {BFLOAT16: 0x7F80, FLOAT16: 0x7C00, FLOAT32: 0x7F800000, FLOAT64: 0x7FF0000000000000}


@native
def _spread_and_peak(bits, magnitude, found):
    """Find in which bits the numbers differ from the first, and the largest of the bits without the sign.

    Magnitudes of floats order as their bits do, infinity above all numbers and NaN above infinity.
    """
    first, own = bits[0], bits.dtype.type(magnitude)
    spread = bits.dtype.type(0)
    peak = bits.dtype.type(0)
    for i in range(len(bits)):
        size = bits[i] & own
        if size > peak:
            peak = size
        spread = spread | (bits[i] ^ first)
    found[0], found[1] = spread, peak


@native
def _count(codes, counts):
    """How often each byte occurs; in four tables, so that equal neighbours do not wait for one another."""
    whole = len(codes) // 4
    for i in range(whole):
        four = codes[4 * i : 4 * i + 4]
        counts[0, four[0]] += 1
        counts[1, four[1]] += 1
        counts[2, four[2]] += 1
        counts[3, four[3]] += 1
    for code in codes[4 * whole :]:
        counts[0, code] += 1


@element
def squared(value: float) -> float:
    """One number's part in the squared norm."""
    return value * value


@dataclass
class Numbers:
    """What is known of the numbers of one tensor, or of a part of it.

    Attributes:
        count: how many.
        nan, positive, negative: how many are not a number, plus infinity and minus infinity.
        at: index of the first that is not finite; -1 if all are.
        constant: whether all are equal, as far as finite ones go.
        value: the first finite number; NaN if there is none.
        peak: the largest magnitude of a finite number.
        squares: the sum of the squares of the finite numbers.
        holes: ranges of nothing but zeros, as long as a chunk at least.
    """

    count: int = 0
    nan: int = 0
    positive: int = 0
    negative: int = 0
    at: int = -1
    constant: bool = True
    value: float = math.nan
    peak: float = 0.0
    squares: float = 0.0
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def nonfinite(self) -> int:
        """How many are not finite."""
        return self.nan + self.positive + self.negative

    @property
    def is_mask(self) -> bool:
        """Whether it holds one finite number at most and, else, minus infinity: what is added to hide something."""
        return not self.nan and not self.positive and self.negative > 0 and self.constant

    def add(self, other: Numbers) -> None:
        """Take in what is known of the part that follows."""
        both_known = not math.isnan(self.value) and not math.isnan(other.value)
        self.constant = self.constant and other.constant and (not both_known or self.value == other.value)
        self.value = other.value if math.isnan(self.value) else self.value
        self.at = other.at if self.at < 0 else self.at
        self.peak = max(self.peak, other.peak)
        self.count += other.count
        self.nan += other.nan
        self.positive += other.positive
        self.negative += other.negative
        self.squares += other.squares
        for start, stop in other.holes:
            if self.holes and self.holes[-1][1] == start:
                start = self.holes.pop()[0]
            self.holes.append((start, stop))


def chunks(size: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover a tile."""
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


def scan(stored: Array, dtype: DType, start: int, scratch: Array) -> Numbers:
    """Look at a tile.

    Args:
        stored: one-dimensional, as it is stored.
        dtype: its format.
        start: index of its first element in the tensor.
        scratch: room for CHUNK numbers of eight bytes.

    Returns:
        What is known. Every number is looked at once; only where some are not finite a second time.
    """
    look = _looker(dtype)
    numbers = Numbers()
    for low, high in chunks(len(stored)):
        numbers.add(look(stored[low:high], start + low, scratch))
    return numbers


@cache
def _looker(dtype: DType) -> Callable[[Array, int, Array], Numbers]:
    """How a chunk of this format is looked at."""
    if dtype in _INFINITY:
        return _Floats(dtype)
    if dtype.name == "complex64":
        return partial(_pairs, _Floats(FLOAT32))
    if dtype.name == "bool":
        return partial(_codes, np.array([0.0, 1.0, *[math.nan] * 254]))
    if dtype.name.startswith("float8"):
        return partial(_codes, table(dtype).astype(np.float64))
    return _integers


def _pairs(floats: _Floats, stored: Array, start: int, scratch: Array) -> Numbers:
    """Complex numbers, whose parts are looked at alike."""
    parts = floats(stored.view(np.float32), 2 * start, scratch)
    return replace(parts, count=len(stored), at=parts.at // 2, holes=[])


class _Floats:
    """A chunk of a floating-point format, without decoding more than the squares need.

    Args:
        dtype: the format.
    """

    def __init__(self, dtype: DType) -> None:
        compute = compute_dtype([dtype])
        self._dtype = dtype
        self._bits = np.dtype(f"uint{8 * dtype.itemsize}")
        self._magnitude = _MAGNITUDE[dtype.itemsize]
        self._infinity = _INFINITY[dtype]
        self._values = np.zeros(0, compute.storage)
        self._compute = compute.storage
        self._square = compiled(Loop(squared, (), (Input("value", None, dtype),), (), 1, compute, compute))

    def __call__(self, stored: Array, start: int, scratch: Array) -> Numbers:
        bits = stored.view(self._bits)
        found = np.empty(2, bits.dtype)
        _spread_and_peak(bits, self._magnitude, found)
        spread, peak = found.tolist()
        if peak >= self._infinity:
            return _plainly(self._decoded(stored), start)
        out = scratch.view(self._compute)[: len(stored)]
        self._square(out, start, -1, self._values, stored)
        with np.errstate(over="ignore"):  # of numbers beyond 1e17 in float32; it is infinite then
            total = float(out.sum())
        first, highest = self._decoded(np.array([bits[0], peak], self._bits).view(stored.dtype)).tolist()
        return Numbers(
            count=len(stored),
            constant=spread == 0 or peak == 0,
            value=first,
            peak=highest,
            squares=total,
            holes=[(start, start + len(stored))] if peak == 0 and len(stored) == CHUNK else [],
        )

    def _decoded(self, stored: Array) -> Array:
        if self._dtype == BFLOAT16:
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.view(np.float16).astype(np.float32) if self._dtype == FLOAT16 else stored


def _plainly(values: Array, start: int) -> Numbers:
    """With numpy, for chunks in which something is not finite."""
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
        finite = np.isfinite(wide)
        good = wide if finite.all() else wide[finite]
        return Numbers(
            count=len(wide),
            nan=int(np.isnan(wide).sum()),
            positive=int(np.isposinf(wide).sum()),
            negative=int(np.isneginf(wide).sum()),
            at=-1 if len(good) == len(wide) else start + int(np.argmin(finite)),
            constant=not len(good) or bool((good == good[0]).all()),
            value=float(good[0]) if len(good) else math.nan,
            peak=float(np.abs(good).max()) if len(good) else 0.0,
            squares=float(np.square(good).sum()),
        )


def _codes(values: Array, stored: Array, start: int, scratch: Array) -> Numbers:
    """Formats of one byte: how often each of the 256 codes occurs tells everything."""
    codes = stored.view(np.uint8)
    parts = np.zeros((4, 256), np.int64)
    _count(codes, parts)
    counts = parts.sum(axis=0)
    finite = np.isfinite(values)
    seen = values[finite & (counts > 0)]
    bad = not finite[counts > 0].all()
    return Numbers(
        count=len(codes),
        nan=int(counts[np.isnan(values)].sum()),
        positive=int(counts[np.isposinf(values)].sum()),
        negative=int(counts[np.isneginf(values)].sum()),
        at=start + int(np.argmin(finite[codes])) if bad else -1,
        constant=len(set(seen.tolist())) <= 1,
        value=float(seen[0]) if len(seen) else math.nan,
        peak=float(np.abs(seen).max(initial=0.0)),
        squares=float(np.square(values[finite]) @ counts[finite]),
        holes=[(start, start + len(codes))] if len(codes) == CHUNK and not seen.any() and not bad else [],
    )


def _integers(stored: Array, start: int, scratch: Array) -> Numbers:
    """Integers are read, so that a file that cannot be is found; no value of theirs is wrong in itself."""
    return Numbers(count=len(stored), constant=False, value=0.0)
