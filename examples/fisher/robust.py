"""From a pretrained network to its fine-tune along a line of weights: what is gained, and what is forgotten.

For each seed: a digit reader is trained on digits seen in five ways (upright, shifted, bold, small, covered), then
fine-tuned on tilted digits, which costs it some of what it could do. Both are merged with weights (1 - w, w),
isotropically and by Fisher information; each merged network is tested on tilted digits, the fine-tuning distribution,
and on the five other ways, the shifted one. No weight is chosen by looking at test digits: the whole curve is shown,
and the table reads both curves at equal accuracy on tilted digits.

    python examples/fisher/robust.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Network, arguments, console, fisher_of, merged, parted, percent, seeds_text, tuned
from digits import Digits, Reader, View, bold, covered, shifted, small, split_digits, tilted, trained, upright
from matplotlib.figure import Figure
from rich.table import Table

Array = np.ndarray[Any, np.dtype[np.float64]]

BROAD: tuple[View, ...] = (upright, shifted, bold, small, covered)
WEIGHTS = np.linspace(0, 1, 11)
KINDS = {"isotropic": ("#0072B2", "o"), "Fisher": ("#E69F00", "s")}


def seen_broadly(digits: Digits) -> Digits:
    """Every digit, in each of the five ways."""
    return Digits(torch.cat([view(digits.images) for view in BROAD]), digits.labels.repeat(len(BROAD)))


def curve(base: Network, expert: Network, fishers: list[Any] | None, tests: list[Digits]) -> list[list[float]]:
    """For each weight, percent of both kinds of test digits."""
    pair = {"pretrained": base, "fine-tuned": expert}
    readers = [merged(pair, fishers, weight=[1 - float(w), float(w)]) for w in WEIGHTS]
    return [[percent(reader, test) for test in tests] for reader in readers]


def one_seed(seed: int, tiny: bool) -> list[list[list[float]]]:
    """Train, merge and test: by kind, weight and test."""
    train, test = split_digits(seed)
    torch.manual_seed(seed)
    base = trained(Reader(), seen_broadly(train), 1 if tiny else 4, 1e-3, seed)
    expert = tuned(base, train.seen(tilted), 1 if tiny else 5, 1e-3, seed)
    [few] = parted(train, [20 if tiny else 100], seed)
    fishers = [fisher_of(base, seen_broadly(few)), fisher_of(expert, train.seen(tilted), 100 if tiny else 500)]
    tests = [test.seen(tilted), seen_broadly(test)]
    return [curve(base, expert, None, tests), curve(base, expert, fishers, tests)]


def at_equal(curves: Array) -> Table:
    """Accuracy under shift where both curves reach the same on the fine-tuning distribution, by interpolation."""
    start, end = curves[0, 0], curves[0, -1]
    table = Table(title="Accuracy under shift, at equal accuracy on the fine-tuning distribution", title_justify="left")
    for name in ("tilted", *KINDS):
        table.add_column(name, justify="right")
    table.add_row(f"{start[0]:.1f}", f"{start[1]:.1f}", f"{curves[1, 0, 1]:.1f}")
    for share in (0.25, 0.5, 0.75, 0.9):
        level = start[0] + share * (end[0] - start[0])
        table.add_row(f"{level:.1f}", *(f"{np.interp(level, line[:, 0], line[:, 1]):.1f}" for line in curves))
    table.add_row(f"{end[0]:.1f}", f"{end[1]:.1f}", f"{curves[1, -1, 1]:.1f}")
    return table


def draw(curves: Array, seeds: int, path: Path) -> None:
    """Both curves, from the pretrained network to the fine-tuned one."""
    figure = Figure(figsize=(8, 5.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for line, (name, (colour, marker)) in zip(curves, KINDS.items()):
        axes.plot(line[:, 0], line[:, 1], marker=marker, color=colour, label=f"{name} merge", markeredgecolor="white")
    for name, place, shift in (("pretrained", 0, (8, -16)), ("fine-tuned", -1, (-74, 2))):
        axes.annotate(name, curves[0, place], shift, textcoords="offset points", color="#222222")
    axes.set(xlabel="tilted digits read correctly, percent (fine-tuning distribution)")
    axes.set(ylabel="digits seen in five other ways, percent (shifted)")
    axes.set_title(f"Along the line of weights, steps of 0.1, {seeds_text(seeds)}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD")
    axes.legend(frameon=False, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Run all seeds; print the tables, save the picture."""
    chosen = arguments("Merge a pretrained network with its fine-tune.", seeds=3, out="runs/fisher/robust.png")
    curves: Array = np.array([one_seed(seed, chosen.tiny) for seed in range(chosen.seeds)]).mean(0)
    table = Table(title=f"Percent read correctly, {seeds_text(chosen.seeds)}", title_justify="left")
    for name in ("w", *(f"{kind}: {test}" for kind in KINDS for test in ("tilted", "shifted"))):
        table.add_column(name, justify="right")
    for k, w in enumerate(WEIGHTS):
        table.add_row(f"{w:.1f}", *(f"{value:.1f}" for value in curves[:, k].flatten()))
    console.print(table)
    console.print(at_equal(curves))
    draw(curves, chosen.seeds, chosen.out)
    console.print(f"Plot: {chosen.out}")


if __name__ == "__main__":
    main()
