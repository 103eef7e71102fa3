"""Names beside points, as far as they have room; the others are told when a pointer is on the point."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

PLOT = (760.0, 430.0)
"""Width and height in pixels in which names must have room; a wider picture only gives them more."""
_CHARACTER, _LINE, _POINT = 6.6, 13.0, 6.0
"""Width and height of a name's characters, and the radius of a point, with some air."""
_PLACES = ("middle right", "middle left", "top center", "bottom center")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def positions(points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str | None]:
    """Where each name goes, as Plotly calls it; the first have first choice.

    Args:
        points: each across and up, as parts of the plot's width and height.
        names: of the points.

    Returns:
        For each point a place where its name covers no other name, no point and no edge; None if there is none.

    Example:
        >>> positions([(0.5, 0.5), (0.5, 0.5), (0.99, 0.2)], ["here", "there", "right"])
        ['middle right', 'middle left', 'middle left']
    """
    centres = [(x * PLOT[0], (1 - y) * PLOT[1]) for x, y in points]
    dots = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in centres]
    taken: list[Box] = []
    made: list[str | None] = []
    for (x, y), name in zip(centres, names, strict=True):
        boxes = {place: box(place, x, y, name) for place in _PLACES}
        free = (place for place in _PLACES if _inside(boxes[place]) and not _covers(boxes[place], [*dots, *taken]))
        made.append(next(free, None))
        if made[-1] is not None:
            taken.append(boxes[made[-1]])
    return made


def box(place: str, x: float, y: float, name: str) -> Box:
    """What a name beside a point covers."""
    width, gap = _CHARACTER * len(name), _POINT
    left = {"middle right": x + gap, "middle left": x - gap - width}.get(place, x - width / 2)
    top = {"top center": y - gap - _LINE, "bottom center": y + gap}.get(place, y - _LINE / 2)
    return left, top, left + width, top + _LINE


def _inside(a: Box) -> bool:
    return a[0] >= 0 and a[1] >= 0 and a[2] <= PLOT[0] and a[3] <= PLOT[1]


def _covers(a: Box, others: Sequence[Box]) -> bool:
    return any(overlap(a, b) for b in others)


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes have more than an edge in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """A range with room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis between two powers of ten.

    Example:
        >>> ticks(-0.7, 2.3)
        [0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
    """
    steps = (1, 3) if high - low > 1.5 else (1, 2, 3, 5, 7)
    found = (step * 10.0**power for power in range(floor(low), ceil(high) + 1) for step in steps)
    return [float(f"{value:.6g}") for value in found if low <= log10(value) <= high]
