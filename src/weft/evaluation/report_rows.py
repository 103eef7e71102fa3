"""What the parts of a page agree on: which rows are merges, by what they are ranked, and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weft.evaluation.results import Results, Row

Group = Literal["reference", "model", "default", "tuned"]
"""What a row is to the reader: something to compare with, or one that competes; some tell how settings were chosen."""
_VARIANTS: dict[object, Group] = {"tuned": "tuned", "untuned": "default"}


def is_base(row: Row) -> bool:
    """Whether a row is the pretrained model: if it says so, or says nothing and is called so."""
    return row.facts.get("role") == "base" or (row.name == "base" and "method" not in row.facts)


def group_of(row: Row) -> Group:
    """What a row is to the reader."""
    if row.role != "model" or is_base(row):
        return "reference"
    return _VARIANTS.get(row.facts.get("variant"), "model")


def merges(results: Results) -> list[Row]:
    """The rows that compete."""
    return [row for row in results.rows if group_of(row) != "reference"]


@dataclass(frozen=True)
class Worth:
    """What rows are ranked by.

    Attributes:
        what: the number, in words.
        of: the number of a row; None if it has none.
        falls: whether lower is better.
    """

    what: str
    of: Callable[[Row], float | None]
    falls: bool = False


def worth_of(results: Results) -> Worth | None:
    """What all rows can be ranked by: parts of the experts' scores if they are known of all, else the mean or score.

    Returns:
        None if scores of different metrics cannot be averaged, or no model was asked all tasks.
    """
    shares = [results.mean_share(row) for row in results.rows]
    means = [results.mean(row) for row in results.rows]
    if len(results.tasks) == 1 and None in shares:
        task = results.tasks[0]
        return Worth(task.metric, lambda row: score_of(row, task.name), task.falls)
    if any(share is not None for share in shares) and all(
        share is not None or mean is None for share, mean in zip(shares, means, strict=True)
    ):
        return Worth("mean, as a part of the experts' scores", results.mean_share)
    return Worth("mean score", results.mean) if any(mean is not None for mean in means) else None


def ranked(results: Results) -> list[Row]:
    """The rows, best first; those that cannot be ranked last, in the order in which they were named."""
    worth = worth_of(results)
    if worth is None:
        return list(results.rows)
    return sorted(results.rows, key=lambda row: _rank(worth, row))


def _rank(worth: Worth, row: Row) -> float:
    value = worth.of(row)
    return float("inf") if value is None else value if worth.falls else -value


def score_of(row: Row, task: str) -> float | None:
    """The score on a task; None if the model was not asked."""
    return row.scores[task].score if task in row.scores else None


def best_of(values: Sequence[float | None], falls: bool) -> float | None:
    """The best number, if there are several to choose from."""
    found = [value for value in values if value is not None]
    return None if len(found) < 2 else min(found) if falls else max(found)


def label(row: Row, results: Results) -> str:
    """The row's name; a mean over fewer seeds than the table's says over which."""
    seeds = row.facts.get("seeds")
    if not isinstance(seeds, list) or seeds == results.facts.get("seeds", seeds):
        return row.name
    return f"{row.name} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"


def apart(row: Row) -> str:
    """How far seeds lie apart, to be put behind a number; empty if that is not known, or nothing."""
    value = row.facts.get("apart")
    return f" ± {value:.3f}" if isinstance(value, float) and value > 0 else ""


def settings_of(row: Row) -> str:
    """The settings of a merge; where seeds chose different ones, those of each."""
    chosen = row.facts.get("chosen")
    if isinstance(chosen, str):
        return chosen
    told = row.facts.get("settings", row.facts.get("parameters"))
    if not isinstance(told, Mapping):
        return "" if told is None else str(told)
    return ", ".join(f"{name}={_plain(value)}" for name, value in told.items()) or "defaults"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
