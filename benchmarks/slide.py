"""The picture: how many times the floor each merge takes, beside its target; and what others take."""

from __future__ import annotations

from collections.abc import Sequence
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

WORK = {"linear": "average", "ties, scope: tensor": "TIES, tensor by tensor"}
WHO = {"weft": OURS, "torch loop": LOOP, "mergekit": PEER}
_PLACE = {True: (0.26, 0.2, 0.28, 0.56), False: (0.3, 0.2, 0.62, 0.56)}
"""Where the first chart is, with and without the second."""


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


def draw(results: Results, path: Path) -> None:
    """Draw 1600x900 pixels, or nothing if nothing was measured."""
    own, others = own_bars(results), peer_bars(results)
    if not own:
        return
    with mpl.rc_context({"font.size": 17}):
        figure = Figure(figsize=(16, 9), dpi=100)
        _write(figure, results)
        _draw_own(figure.add_axes(_PLACE[bool(others)]), own)
        if others:
            _draw_peers(figure.add_axes((0.7, 0.2, 0.25, 0.56)), others)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def own_bars(results: Results) -> list[Bar]:
    """Weft's merges that have a target in floors."""
    bars = []
    for label, key, name, limit in RATIOS:
        section = results.sections.get(key)
        ratio = section.ratio(name) if section else None
        if ratio is not None:
            bars.append(Bar(label, ratio, OURS if ratio <= limit else MISSED, limit))
    return bars


def peer_bars(results: Results) -> list[tuple[str, list[Bar]]]:
    """By the kind of work, everyone who did it."""
    peers = results.sections.get("peers")
    groups = []
    for name, work in WORK.items() if peers else ():
        found = [(who, peers.ratio(f"{who} {name}")) for who in WHO]
        groups.append((work, [Bar(who, ratio, WHO[who]) for who, ratio in found if ratio]))
    return groups


def _write(figure: Figure, results: Results) -> None:
    facts = results.machine
    figure.text(0.035, 0.905, "What a merge costs, beside copying", size=32, weight="bold", color=INK)
    told = (
        "Time of the whole command, in multiples of the floor: read every input byte once, write and sync the output."
    )
    figure.text(0.035, 0.85, told, color=QUIET)
    foot = f"{facts['cores']} cores, warm page cache, medians. Base and three models in bfloat16."
    figure.text(0.035, 0.045, f"{foot} Weft {facts['versions']['weft']}, {facts['date']}.", size=14, color=QUIET)


def _draw_own(axes: Axes, bars: Sequence[Bar]) -> None:
    most = max(max(bar.ratio, bar.target or 0) for bar in bars)
    axes.barh(range(len(bars)), [bar.ratio for bar in bars], 0.62, color=[bar.colour for bar in bars], zorder=2)
    for place, bar in enumerate(bars):
        axes.plot([bar.target] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=3, zorder=3)
        axes.text(bar.ratio - 0.03 * most, place, f"{bar.ratio:.2f}", color="white", ha="right", va="center_baseline")
    axes.set(xlim=(0, 1.08 * most), ylim=(len(bars) - 0.4, -0.6))
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    _mark_floor(axes)
    _tidy(axes, "Weft, and its targets")
    _explain(axes, [("target", INK), ("target missed", MISSED)] if _any_missed(bars) else [("target", INK)])


def _any_missed(bars: Sequence[Bar]) -> bool:
    return any(bar.colour == MISSED for bar in bars)


def _draw_peers(axes: Axes, groups: Sequence[tuple[str, Sequence[Bar]]]) -> None:
    """Groups of bars on a logarithmic axis."""
    place, labels = 0.0, []
    for work, bars in groups:
        axes.text(1, place, work, color=INK, weight="bold", va="center_baseline")
        for bar in bars:
            place += 1
            axes.barh(place, bar.ratio, 0.62, color=bar.colour, zorder=2)
            axes.text(bar.ratio * 1.12, place, f"{bar.ratio:.3g}", color=INK, va="center_baseline")
            labels.append((place, bar.label))
        place += 1.4
    axes.set_xscale("log")
    most = max(bar.ratio for _, bars in groups for bar in bars)
    axes.set(xlim=(0.5, most * 3), ylim=(place - 0.9, -0.6))
    axes.set_yticks([height for height, _ in labels], [label for _, label in labels])
    axes.set_xticks(ticks := [x for x in (1, 10, 100, 1000) if x < most * 3], [str(x) for x in ticks])
    axes.minorticks_off()
    _mark_floor(axes)
    _tidy(axes, "Others, logarithmic")


def _mark_floor(axes: Axes) -> None:
    axes.axvline(1, color=QUIET, linewidth=1.5, linestyle=(0, (4, 3)), zorder=4)
    axes.text(1, -0.1, "floor", transform=axes.get_xaxis_transform(), ha="center", va="top", color=QUIET)


def _explain(axes: Axes, marks: Sequence[tuple[str, str]]) -> None:
    """What the colours are, below."""
    left = 0.3
    for text, colour in marks:
        axes.text(left, -0.1, f"▎{text}", transform=axes.transAxes, va="top", color=colour)
        left += 0.25


def _tidy(axes: Axes, title: str) -> None:
    """Leave only what helps to read a length."""
    axes.set_title(title, loc="left", color=INK, weight="bold", size=19, pad=18)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=QUIET)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="x", color=LINES)
    axes.set_axisbelow(True)
