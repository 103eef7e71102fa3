"""The slide of `digits.py`: for each task, what merged networks reach between the base and the task's own expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.isotonic import IsotonicRegression

Array = np.ndarray[Any, np.dtype[Any]]

INK, QUIET, BAND, LINES = "#222222", "#767676", "#ECECEC", "#DDDDDD"
MARKS = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC5FA0", "^"))
"""One for each merged network, after Okabe and Ito: told apart by colour-blind eyes, and by shape."""


@dataclass(frozen=True)
class Slide:
    """What is drawn.

    Attributes:
        title: what is seen.
        subtitle: how to read it.
        examples: for each task, by its name, an image.
        base: accuracy of the base on each task, in percent.
        expert: accuracy of each task's own network.
        merges: accuracies of each merged network, by its name; as many as there are `MARKS`.
    """

    title: str
    subtitle: str
    examples: Mapping[str, Array]
    base: Array
    expert: Array
    merges: Mapping[str, Array]

    def save(self, path: Path) -> None:
        """Draw 1600x900 pixels."""
        with mpl.rc_context({"font.size": 19}):
            figure = Figure(figsize=(16, 9), dpi=100)
            self._draw(figure)
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)

    def _draw(self, figure: Figure) -> None:
        figure.text(0.035, 0.905, self.title, size=32, weight="bold", color=INK)
        figure.text(0.035, 0.85, self.subtitle, color=QUIET)
        axes = figure.add_axes((0.055, 0.27, 0.735, 0.53))
        for k, (name, image) in enumerate(self.examples.items()):
            merges = [accuracy[k] for accuracy in self.merges.values()]
            draw_column(axes, k, name, self.base[k], self.expert[k], merges)
            draw_example(axes, k, image)
        mean = len(self.examples) + 0.25
        merges = [accuracy.mean() for accuracy in self.merges.values()]
        draw_column(axes, mean, "mean", self.base.mean(), self.expert.mean(), merges)
        draw_legend(axes, mean, list(self.merges), self.base.mean(), self.expert.mean(), merges)
        axes.set(xlim=(-0.55, mean + 0.5), ylim=(self._floor(), 101), xticks=[])
        tidy(axes)

    def _floor(self) -> float:
        """The ten below all that is shown."""
        return float(min(10 * (accuracy.min() // 10) for accuracy in (self.base, self.expert, *self.merges.values())))


def draw_column(axes: Axes, place: float, name: str, base: float, expert: float, merges: Sequence[float]) -> None:
    """A band from the base to the task's own expert, a mark for each merged network, and the name below."""
    axes.bar(place, expert - base, 0.8, bottom=base, color=BAND)
    axes.hlines([base, expert], place - 0.4, place + 0.4, colors=[QUIET, INK], linewidths=[2, 3])
    for lane, (value, (colour, marker)) in enumerate(zip(merges, MARKS, strict=True)):
        x = place + 0.2 * (lane - (len(merges) - 1) / 2)
        axes.plot(x, value, marker, color=colour, markersize=16, markeredgecolor="white", zorder=3)
    axes.text(place, -0.07, name, transform=axes.get_xaxis_transform(), ha="center", va="center", color=INK)


def draw_example(axes: Axes, place: float, image: Array) -> None:
    """The task, as an image under its column."""
    inset = axes.inset_axes((place - 0.4, -0.4, 0.8, 0.27), transform=axes.get_xaxis_transform())
    inset.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set_color(QUIET)


def draw_legend(
    axes: Axes, place: float, names: Sequence[str], base: float, expert: float, merges: Sequence[float]
) -> None:
    """Marks, numbers and names, beside the last column and at its heights."""
    entries = [("expert", expert, INK, "_"), ("base", base, QUIET, "_")]
    entries += [(name, value, *mark) for name, value, mark in zip(names, merges, MARKS, strict=True)]
    heights = kept_apart([value for _, value, *_ in entries], gap=5.5)
    for (name, value, colour, marker), height in zip(entries, heights):
        edge = 3 if marker == "_" else 0
        axes.plot(place + 0.62, height, marker, color=colour, markersize=14, markeredgewidth=edge, clip_on=False)
        axes.text(place + 0.78, height, f"{value:.0f}  {name}", color=INK, va="center_baseline")


def kept_apart(values: Sequence[float], gap: float) -> list[float]:
    """The values, moved as little as it takes for neighbours to be `gap` apart.

    Example:
        >>> kept_apart([9.0, 1.0, 1.0], gap=2.0)
        [9.0, 0.0, 2.0]
    """
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    heights = IsotonicRegression().fit_transform(steps, np.asarray(values)[order] - steps) + steps
    return [float(height) for height in heights[np.argsort(order)]]


def tidy(axes: Axes) -> None:
    """Leave only what helps to read a height."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=QUIET)
    axes.grid(axis="y", color=LINES)
    axes.set_axisbelow(True)
