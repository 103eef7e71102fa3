"""What the recipes of this folder share: the digit reader of `examples/digits.py`, a Fisher, a merge and a table."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import weft

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where digits.py is

from digits import Digits, trained

Network = TypeVar("Network", bound=nn.Module)
Rows = Mapping[str, float]
"""What one seed gives: for each row of the table a figure."""

console = Console(width=None if Console().is_terminal else 120)


# Digits.


def sample(digits: Digits, which: Tensor) -> Digits:
    """These of the digits."""
    return Digits(digits.images[which], digits.labels[which])


def parted(digits: Digits, counts: Sequence[int], seed: int) -> list[Digits]:
    """Disjoint random parts of so many digits each."""
    order = torch.randperm(len(digits.labels), generator=torch.Generator().manual_seed(seed))
    return [sample(digits, part) for part in order[: sum(counts)].split(list(counts))]


def tuned(reader: Network, digits: Digits, epochs: int, rate: float, seed: int) -> Network:
    """A copy, trained further; the seed says in which order it sees the digits."""
    return trained(copy.deepcopy(reader), digits, epochs, rate, seed)


@torch.no_grad()
def probabilities(reader: nn.Module, digits: Digits) -> Tensor:
    """Of the classes, for each digit."""
    return reader(digits.images).softmax(1)


def right(predicted: Tensor, digits: Digits) -> float:
    """Percent of the digits whose likeliest class is theirs."""
    return 100 * (predicted.argmax(1) == digits.labels).double().mean().item()


def percent(reader: nn.Module, digits: Digits) -> float:
    """Percent of the digits that it reads correctly."""
    return right(probabilities(reader, digits), digits)


# Fishers and merges.


def fisher_of(reader: nn.Module, digits: Digits, most: int = 500) -> dict[str, Tensor]:
    """Its diagonal Fisher information on these digits, at most so many; their labels are not used."""
    return weft.fisher(reader, [{"images": images} for images in digits.images[:most].split(64)])


def merged(models: Mapping[str, Network], fishers: Sequence[Any] | None = None, **options: Any) -> Network:
    """The models merged; without Fishers isotropically, as a weighted mean. All count alike, unless weights are given.

    Args:
        models: by their names; the first one's class, and what else it holds, is the result's.
        fishers: of the models, in their order.
        **options: of `weft.merge`.
    """
    states = {name: model.state_dict() for name, model in models.items()}
    settings = {"method": "linear"} if fishers is None else {"method": "fisher", "fisher": fishers}
    if fishers is not None:
        settings["favor_target"] = False  # so that the order of the models does not matter
    result = copy.deepcopy(next(iter(models.values())))
    result.load_state_dict(weft.merge(states, **settings, **options))
    return result


def best(candidates: Sequence[Network], score: Callable[[Network], float]) -> int:
    """The first of those that score highest."""
    return int(np.argmax([score(candidate) for candidate in candidates]))


# The command.


def arguments(description: str, seeds: int, out: str | None = None) -> argparse.Namespace:
    """What a person may choose."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many times to repeat everything")
    parser.add_argument("--tiny", action="store_true", help="hardly train: to see that it runs; figures mean nothing")
    if out is not None:
        parser.add_argument("--out", type=Path, default=Path(out), help="where to put the picture")
    chosen = parser.parse_args()
    if chosen.seeds < 1:
        parser.error("--seeds: at least 1")
    torch.set_num_threads(1)  # one order of sums on any number of cores
    return chosen


def repeated(seeds: int, one_seed: Callable[[int], Rows]) -> dict[str, list[float]]:
    """The rows of every seed, by name."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        began = time.monotonic()
        for name, value in one_seed(seed).items():
            found.setdefault(name, []).append(value)
        console.print(f"seed {seed}: {time.monotonic() - began:.0f} s", style="dim")
    return found


def show(title: str, found: Mapping[str, Sequence[float]], reference: str, column: str = "percent") -> None:
    """The one table: means over seeds, and the difference to one row, seed by seed, with its standard error."""
    table = Table(title=f"{title}, {seeds_text(len(found[reference]))}", title_justify="left")
    table.add_column("")
    table.add_column(column, justify="right")
    table.add_column(f"minus {reference}", justify="right")
    for name, values in found.items():
        difference = np.subtract(values, found[reference])
        table.add_row(name, f"{np.mean(values):.1f}", "" if name == reference else with_error(difference))
    console.print(table)


def seeds_text(seeds: int) -> str:
    """What the numbers are."""
    return f"mean of {seeds} seeds" if seeds > 1 else "one seed"


def with_error(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """The mean, and its standard error where there are several."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{values.mean():+.1f}{error}"
