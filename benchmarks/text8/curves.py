"""How accuracy depends on the number of merged models, on density and on scale; what TIES owes to each of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protocol import TASKS, Bench

import weft
from weft.errors import InputError
from weft.evaluation.results import Curve, Results, Series

SCALES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
STEPS: Mapping[str, Mapping[str, Any]] = {
    "TIES": {},
    "without trimming": {"density": 1.0},
    "without election": {"elect": "none"},
    "without disjoint mean": {"combine": "plain_mean"},
    "trimming alone": {"elect": "none", "combine": "plain_mean"},
}
COMPARED = ("linear", "task_arithmetic", "ties", "fisher", "regmean")
"""What every other method is compared with."""
LINES = 10
"""Methods in one picture, at most."""
MODELS, ABLATION = "Number of merged models", "What TIES owes to its steps"


def all_of(bench: Bench, found: Results) -> list[Curve]:
    """Every curve of the page: of the methods that all papers compare with, and of those that are best when tuned."""
    rows = [row for row in found.rows if row.facts.get("variant") == "tuned"]
    rows.sort(key=lambda row: (row.facts["method"] not in COMPARED, -(found.mean_share(row) or 0.0)))
    tuned = {str(row.facts["method"]): dict(row.facts["settings"]) for row in rows}
    return [
        by_number(bench, dict(list(tuned.items())[:LINES])),
        sensitivity(bench, list(tuned), "scale", SCALES),
        sensitivity(bench, list(tuned), "density", SHARES),
        ablation(bench),
    ]


def by_number(bench: Bench, tuned: Mapping[str, Mapping[str, Any]]) -> Curve:
    """The first two tasks, the first three, and so on; with the settings that were tuned on all eight."""
    series = []
    for method, settings in tuned.items():
        points = []
        for count in range(2, len(TASKS) + 1):
            results, row = bench.scored_merge(method, settings, method, "test", bench.budget.curve, TASKS[:count])
            points.append((count, results.mean_share(row) or 0.0))
            bench.tell(f"{method}, {count} models: {points[-1][1]:.4f}")
        series.append(_series(method, points))
    return Curve(MODELS, "models", "mean of accuracies as parts of the experts'", series)


def sensitivity(bench: Bench, methods: Sequence[str], name: str, values: tuple[float, ...]) -> Curve:
    """The first of the methods with such a parameter, the others at their defaults, on validation."""
    having = [method for method in methods if name in weft.method(method).model_fields][:LINES]
    series = [_series(method, list(_along(bench, method, name, values))) for method in having]
    return Curve(f"Sensitivity to {name}", name, "mean accuracy on validation", series)


def _along(bench: Bench, method: str, name: str, values: tuple[float, ...]) -> Iterator[tuple[float, float]]:
    for value in values:
        try:
            yield value, bench.judged(method, {name: value}).score
        except InputError:  # out of the parameter's bounds
            continue


def ablation(bench: Bench) -> Curve:
    """TIES at its defaults, with one step left out, on test."""
    series = []
    for step, settings in STEPS.items():
        results, row = bench.scored_merge("ties", settings, step)
        series.append(Series(step, [0.0], [results.mean_share(row) or 0.0]))
        bench.tell(f"{step}: {series[-1].y[0]:.4f}")
    return Curve(ABLATION, "", "mean of accuracies as parts of the experts'", series, points=True)


def _series(name: str, points: list[tuple[float, float]]) -> Series:
    return Series(name, [x for x, _ in points], [y for _, y in points])
