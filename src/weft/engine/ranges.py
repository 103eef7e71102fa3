"""Which parts of a tensor are done."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A set of whole numbers, kept as ranges that neither touch nor overlap.

    Example:
        >>> done = Ranges()
        >>> done.add(0, 10); done.add(20, 30); done.add(10, 12)
        >>> list(done), list(done.missing(5, 25))
        ([(0, 12), (20, 30)], [(12, 20)])
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Include the numbers from `start` up to, but without, `stop`."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are not included, in order."""
        for k in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[k] >= stop:
                break
            if start < self._starts[k]:
                yield start, self._starts[k]
            start = self._stops[k]
        if start < stop:
            yield start, stop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self)
