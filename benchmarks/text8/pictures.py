"""The pictures of docs/benchmark.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from curves import ABLATION, MODELS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weft.evaluation.results import Curve, Results

INK, QUIET, LINES = "#222222", "#767676", "#DDDDDD"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1", "#8C8C8C", "#B8860B", "#222222")
"""After Okabe and Ito: told apart by colour-blind eyes."""
UNTUNED, TUNED, OTHER = "#9CC4DE", "#0072B2", "#BBBBBB"
BARS = "Leaderboard"
mpl.use("Agg")


def draw(results: Results, folder: Path) -> dict[str, str]:
    """All pictures; the file's name by the title."""
    drawn = {BARS: _bars(results, folder / "leaderboard.png")}
    for curve in results.curves:
        if curve.title != ABLATION and curve.series:
            drawn[curve.title] = _lines(curve, folder / f"{_file(curve.title)}.png")
    return drawn


def _file(title: str) -> str:
    return "models" if title == MODELS else title.split()[-1]


def _bars(results: Results, file: Path) -> str:
    """Defaults as bars, and where tuning brought them as a mark."""
    every = [row for row in results.rows if row.facts.get("variant") != "tuned"]
    rows = sorted(every, key=lambda row: results.mean_share(row) or 0.0)
    places = {row.name: k for k, row in enumerate(rows)}
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    shares = [results.mean_share(row) or 0.0 for row in rows]
    colours = [UNTUNED if "variant" in row.facts else OTHER for row in rows]
    axes.barh([row.name for row in rows], shares, color=colours, height=0.7)
    tuned = {str(row.facts["method"]): row for row in results.rows if row.facts.get("variant") == "tuned"}
    found = {places[name]: results.mean_share(row) or 0.0 for name, row in tuned.items() if name in places}
    if found:
        axes.plot(list(found.values()), list(found), "D", ms=4, color=TUNED, label="tuned")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    left = min(0.6, min(shares) - 0.05)
    for k, share in enumerate(shares):
        axes.text(left + 0.006, k, f"{share:.3f}", va="center", ha="left", color=INK, fontsize=8)
    axes.set_xlim(left, 1.01)
    _dress(axes, "mean of accuracies as parts of the experts'", "")
    figure.savefig(file, dpi=150)
    return file.name


def _lines(curve: Curve, file: Path) -> str:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes: Axes = figure.subplots()
    for k, series in enumerate(curve.series):
        axes.plot(series.x, series.y, marker="o", ms=3.5, lw=1.6, color=COLOURS[k % len(COLOURS)], label=series.name,
                  ls="-" if k < len(COLOURS) else "--")  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _dress(axes, curve.across, curve.up)
    figure.savefig(file, dpi=150)
    return file.name


def _dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=QUIET, fontsize=9)
    axes.set_ylabel(up, color=QUIET, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="x" if not up else "y", color=LINES, lw=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
