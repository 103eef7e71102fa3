"""The picture: how many times the floor each merge takes, beside its target; and what others take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Results
from targets import RATIOS

INK, QUIET, LINES = "#222222", "#767676", "#DDDDDD"
OURS, MISSED, LOOP, PEER = "#0072B2", "#E69F00", "#8C8C8C", "#CC5FA0"
"""After Okabe and Ito: told apart by colour-blind eyes."""

OTHERS = {"linear": "average", "ties, scope: tensor": "TIES, tensor by tensor"}
"""What others were measured at, by Weft's name for it."""
WHO = {"weft": OURS, "torch loop": LOOP, "mergekit": PEER}


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: what it is of.
        ratio: its length, in floors.
        colour: its colour.
        target: where the target's mark is; None if there is none.
    """

    label: str
    ratio: float
    colour: str
    target: float | None = None


Groups = Mapping[str, Sequence[Bar]]
"""Bars under headings."""


def draw(results: Results, path: Path) -> None:
    """Draw 1600x900 pixels, or nothing if nothing was measured."""
    own, others = own_bars(results), peer_bars(results)
    if not own:
        return
    with mpl.rc_context({"font.size": 17}):
        figure = Figure(figsize=(16, 9), dpi=100)
        _write(figure, results)
        axes = figure.add_axes((0.2, 0.17, 0.36 if others else 0.72, 0.61))
        _draw(axes, own)
        _explain(axes)
        if others:
            _draw(figure.add_axes((0.71, 0.17, 0.25, 0.61)), others, log=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def own_bars(results: Results) -> Groups:
    """Weft's merges that have a target in floors, by the size of what they merge."""
    groups: dict[str, list[Bar]] = {}
    for target in RATIOS:
        section = results.sections.get(target.workload)
        ratio = section.ratio(target.command) if section else None
        if ratio is not None:
            colour = OURS if ratio <= target.limit else MISSED
            groups.setdefault(target.of, []).append(Bar(target.work, ratio, colour, target.limit))
    return groups


def peer_bars(results: Results) -> Groups:
    """By the kind of work, everyone who did it."""
    peers = results.sections.get("peers")
    groups = {}
    for name, work in OTHERS.items() if peers else ():
        found = [(who, peers.ratio(f"{who} {name}")) for who in WHO]
        groups[work] = [Bar(who, ratio, WHO[who]) for who, ratio in found if ratio]
    return groups


def _write(figure: Figure, results: Results) -> None:
    facts = results.machine
    figure.text(0.035, 0.905, "What a merge costs, beside copying", size=32, weight="bold", color=INK)
    told = (
        "Time of the whole command, in multiples of the floor: read every input byte once, write and sync the output."
    )
    figure.text(0.035, 0.855, told, color=QUIET)
    foot = f"{facts['cores']} cores, warm page cache, medians; a base and three models in bfloat16."
    figure.text(0.035, 0.035, f"{foot} Weft {facts['versions']['weft']}, {facts['date']}.", size=14, color=QUIET)


def _draw(axes: Axes, groups: Groups, log: bool = False) -> None:
    """Bars from above to below, each with its length beside it."""
    most = max(max(bar.ratio, bar.target or 0) for bars in groups.values() for bar in bars)
    place, labels = 0.0, {}
    for heading, bars in groups.items():
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        across = axes.get_yaxis_transform()
        axes.text(0, place, heading, transform=across, color=INK, weight="bold", va="center_baseline", bbox=behind)
        for bar in bars:
            place += 1
            _draw_bar(axes, place, bar, most, log)
            labels[place] = bar.label
        place += 1.5
    axes.set_yticks(list(labels), list(labels.values()))
    axes.set(ylim=(place - 0.9, -0.7), xscale="log" if log else "linear")
    axes.set_xlim((0.5, 3 * most) if log else (0, 1.12 * most))
    ticks = [10**k for k in range(4) if 10**k < 3 * most] if log else range(math.ceil(1.12 * most))
    axes.set_xticks(ticks, ["floor" if tick == 1 else f"{tick}" for tick in ticks])
    if log:
        axes.text(0, -0.095, "logarithmic scale", transform=axes.transAxes, va="top", color=QUIET)
    _tidy(axes)


def _draw_bar(axes: Axes, place: float, bar: Bar, most: float, log: bool) -> None:
    axes.barh(place, bar.ratio, 0.64, color=bar.colour, zorder=2)
    if bar.target:
        axes.plot([bar.target] * 2, [place - 0.44, place + 0.44], color=INK, linewidth=3, zorder=3)
    end = max(bar.ratio, bar.target or 0)
    digits = f"{bar.ratio:.2f}" if bar.ratio < 10 else f"{bar.ratio:.0f}"
    axes.text(end * 1.12 if log else end + 0.02 * most, place, digits, color=INK, va="center_baseline")


def _explain(axes: Axes) -> None:
    """What the marks are, below."""
    for left, text, colour in ((0.0, "▎target", INK), (0.24, "■ met", OURS), (0.44, "■ missed", MISSED)):
        axes.text(left, -0.095, text, transform=axes.transAxes, va="top", color=colour)


def _tidy(axes: Axes) -> None:
    """Leave only what helps to read a length."""
    axes.minorticks_off()
    axes.axvline(1, color=QUIET, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=QUIET)
    axes.tick_params(axis="y", labelcolor=INK, pad=8)
    axes.grid(axis="x", color=LINES)
    axes.set_axisbelow(True)
