"""Several seeds as one table: means over the seeds that have a row, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from protocol import plain

from weft.evaluation.results import Curve, Results, Row, Score, Series


def joined(results: Sequence[Results]) -> Results:
    """The table of means. Every row and every curve says of which seeds it is, since not all are run with each.

    Args:
        results: one for each seed; settings and merge times are those of the first that has the row.
    """
    first = results[0]
    names = dict.fromkeys(row.name for each in results for row in each.rows)
    titles = dict.fromkeys(curve.title for each in results for curve in each.curves)
    facts = {
        **first.facts,
        "seeds": [each.facts["seed"] for each in results],
        "curves of": [each.facts["seed"] for each in results if each.curves],
    }
    rows = [_row(name, [each for each in results if any(row.name == name for row in each.rows)]) for name in names]
    return replace(first, rows=rows, curves=[_curve(title, results) for title in titles], facts=facts)


def _row(name: str, results: Sequence[Results]) -> Row:
    rows = [next(row for row in each.rows if row.name == name) for each in results]
    scores = {task: _score([row.scores[task] for row in rows]) for task in rows[0].scores}
    facts = {**rows[0].facts, "seeds": [each.facts["seed"] for each in results]}
    if len(rows) > 1:
        facts["apart"] = stdev(each.mean_share(row) or 0.0 for each, row in zip(results, rows, strict=True))
    if facts.get("variant") == "tuned":
        told = [plain(row.facts["settings"]) for row in rows]
        if len({*told}) > 1:
            facts["chosen"] = "; ".join(f"{one} (seed {n})" for one, n in zip(told, facts["seeds"], strict=True))
        facts["untuned"] = fmean(_share(facts["method"], each) for each in results)
    return replace(rows[0], scores=scores, facts=facts)


def _share(name: str, results: Results) -> float:
    return next(results.mean_share(row) or 0.0 for row in results.rows if row.name == name)


def _score(scores: Sequence[Score]) -> Score:
    metrics = {name: fmean(score.metrics[name] for score in scores) for name in scores[0].metrics}
    shares = [score.share for score in scores if score.share is not None]
    return replace(
        scores[0],
        score=fmean(score.score for score in scores),
        metrics=metrics,
        share=fmean(shares) if shares else None,
    )


def _curve(title: str, results: Sequence[Results]) -> Curve:
    """The mean of lines that all seeds with this curve have at the same places."""
    curves = [curve for each in results for curve in each.curves if curve.title == title]
    named = [{series.name: series for series in curve.series} for curve in curves]
    common = [s for s in curves[0].series if all(s.name in by and list(by[s.name].x) == list(s.x) for by in named)]
    lines = [[by[series.name].y for by in named] for series in common]
    means = [[fmean(values) for values in zip(*ys, strict=True)] for ys in lines]
    return replace(curves[0], series=[Series(s.name, s.x, y) for s, y in zip(common, means, strict=True)])
