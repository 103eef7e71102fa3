"""Several seeds as one table: means over seeds, and how far seeds lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from weft.evaluation.results import Curve, Results, Row, Score, Series


def joined(results: Sequence[Results]) -> Results:
    """The table of means; a row that a seed lacks is left out.

    Args:
        results: one for each seed; settings and merge times are those of the first.
    """
    first = results[0]
    facts = {**first.facts, "seeds": [each.facts["seed"] for each in results]}
    if len(results) == 1:
        return replace(first, facts=facts)
    named = [{row.name: row for row in each.rows} for each in results]
    rows = [_row([by[row.name] for by in named], results) for row in first.rows if all(row.name in by for by in named)]
    curves = [_curve([each.curves[k] for each in results]) for k in range(min(len(each.curves) for each in results))]
    return replace(first, rows=rows, curves=curves, facts=facts)


def _row(rows: Sequence[Row], results: Sequence[Results]) -> Row:
    scores = {name: _score([row.scores[name] for row in rows]) for name in rows[0].scores}
    shares = [each.mean_share(row) or 0.0 for each, row in zip(results, rows, strict=True)]
    return replace(rows[0], scores=scores, facts={**rows[0].facts, "apart": stdev(shares)})


def _score(scores: Sequence[Score]) -> Score:
    metrics = {name: fmean(score.metrics[name] for score in scores) for name in scores[0].metrics}
    shares = [score.share for score in scores if score.share is not None]
    return replace(
        scores[0],
        score=fmean(score.score for score in scores),
        metrics=metrics,
        share=fmean(shares) if shares else None,
    )


def _curve(curves: Sequence[Curve]) -> Curve:
    """The mean of lines that all seeds have at the same places."""
    named = [{series.name: series for series in curve.series} for curve in curves]
    common = [s for s in curves[0].series if all(s.name in by and list(by[s.name].x) == list(s.x) for by in named)]
    lines = [[by[series.name].y for by in named] for series in common]
    means = [[fmean(values) for values in zip(*ys, strict=True)] for ys in lines]
    return replace(curves[0], series=[Series(s.name, s.x, y) for s, y in zip(common, means, strict=True)])
