"""Results as data: rows of models, columns of tasks; saved as JSON and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError
from weft.evaluation.metrics import share


@dataclass(frozen=True)
class Score:
    """What one model reached on one task.

    Attributes:
        score: by the metric that counts.
        metrics: by every metric that fits.
        share: the score as a part of the expert's; None if no expert is known.
        examples: how many were asked.
        cached: whether it was known from an earlier run.
    """

    score: float
    metrics: Mapping[str, float]
    share: float | None = None
    examples: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Column:
    """One task of a table.

    Attributes:
        name: of the task.
        kind: of the task.
        metric: the one that counts.
        falls: whether lower is better.
    """

    name: str
    kind: str
    metric: str
    falls: bool = False


@dataclass(frozen=True)
class Row:
    """One model of a table.

    Attributes:
        name: what it is called.
        scores: by task; a task that the model was not asked is not there.
        role: `model`, `experts` (each on its own task) or `ensemble`.
        path: where the model lies.
        seconds: that asking took, without what was known already.
        facts: whatever else is worth telling, such as the method or the time of the merge; under `failed`, by task, why
            there is no score.
    """

    name: str
    scores: Mapping[str, Score]
    role: str = "model"
    path: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """One line of a curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """How something depends on something else.

    Attributes:
        title, across, up: of the plot and its axes.
        series: the lines.
        points: whether they are points that no line joins.
    """

    title: str
    across: str
    up: str
    series: Sequence[Series]
    points: bool = False


@dataclass(frozen=True)
class Results:
    """A table of scores.

    Attributes:
        tasks: the columns.
        rows: the models, in the order in which they were named.
        split: of the data.
        title: what the table is about.
        curves: plots that belong to it.
        facts: what else belongs to it, such as versions.
    """

    tasks: Sequence[Column]
    rows: Sequence[Row]
    split: str = "test"
    title: str = ""
    curves: Sequence[Curve] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, row: Row) -> float | None:
        """The mean score over all tasks; None if one is missing, or if metrics are not of one sort.

        Scores may be averaged if for all of them higher is better.
        """
        if any(task.name not in row.scores or task.falls for task in self.tasks):
            return None
        return fmean(row.scores[task.name].score for task in self.tasks)

    def mean_share(self, row: Row) -> float | None:
        """The mean over all tasks of the score as a part of the expert's; None if one is missing."""
        shares = [row.scores[task.name].share if task.name in row.scores else None for task in self.tasks]
        return fmean(s for s in shares if s is not None) if shares and None not in shares else None

    def failures(self) -> list[str]:
        """Why scores are lacking, as far as a model is to blame."""
        return list(dict.fromkeys(what for row in self.rows for what in row.facts.get("failed", {}).values()))

    def known(self) -> tuple[int, int]:
        """How many scores were known from earlier runs, and how many there are."""
        found = [score.cached for row in self.rows for score in row.scores.values()]
        return sum(found), len(found)

    def save(self, path: Path) -> None:
        """Write it as JSON, in one go."""
        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f".{path.name}.making")
        making.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        making.replace(path)

    def as_json(self) -> dict[str, Any]:
        """As plain data; means are told for who reads the file without Weft."""
        told = asdict(self)
        for row, plain in zip(self.rows, told["rows"], strict=True):
            plain |= {"mean": self.mean(row), "mean_share": self.mean_share(row)}
        return told


def load_results(path: Path) -> Results:
    """Read what `save` wrote.

    Raises:
        InputError: if it is not such a file.
    """
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "check the path") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}", "name a file that `weft evaluate -o` wrote") from None
    try:
        return TypeAdapter(Results).validate_python(_without_means(parsed))
    except ValidationError as error:
        item = error.errors()[0]
        what = f"{path}: not results: {' '.join(map(str, (*item['loc'], worded(item))))}"
        raise InputError(what, "name a file that `weft evaluate -o` wrote") from None


def _without_means(parsed: Any) -> Any:
    if not isinstance(parsed, dict) or not isinstance(parsed.get("rows"), list):
        return parsed
    rows = [
        {k: v for k, v in row.items() if k not in ("mean", "mean_share")} if isinstance(row, dict) else row
        for row in parsed["rows"]
    ]
    return {**parsed, "rows": rows}


def with_failures(row: Row, failed: Mapping[str, InputError]) -> Row:
    """The row that says of which tasks it has no score, and why."""
    told = {task: error.problems[0].what for task, error in failed.items()}
    return replace(row, facts={**row.facts, "failed": told}) if told else row


def with_share(score: Score, metric: str, expert: float | None) -> Score:
    """The score beside its expert's."""
    return score if expert is None else replace(score, share=share(metric, score.score, expert))
