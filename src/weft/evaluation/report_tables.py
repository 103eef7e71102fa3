"""The tables of a page: the leaderboard, with the papers' rows beneath ours, and scores by task on coloured ground."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pydantic import TypeAdapter, ValidationError

from weft.algorithms.wording import worded
from weft.errors import InputError
from weft.evaluation.protocols.schema import Published
from weft.evaluation.report_rows import (
    apart,
    best_of,
    group_of,
    label,
    merges,
    ranked,
    score_of,
    settings_of,
)
from weft.evaluation.results import Column, Results, Row

_GROUND = ((243, 246, 249), (179, 214, 237), (86, 166, 216))
"""From the worst to the best of a column; light enough for dark numbers."""
_LONG = 10
"""Characters of a name that stays in one line."""
_SECONDS = "merge, s"


# The leaderboard


def leaderboard(results: Results) -> str:
    """All numbers, best model first; what papers report stands beneath, in the same columns."""
    theirs = published(results)
    means = _means(results, theirs)
    words = _words(results, theirs)
    several = len({task.metric for task in results.tasks}) > 1
    heads = ["<th>model</th>", *(f"<th>{name}</th>" for name in means)]
    heads += [f"<th>{_heading(task, several)}</th>" for task in results.tasks]
    heads += [f"<th>{name}</th>" if name == _SECONDS else f'<th class="words">{name}</th>' for name in words]
    columns = [*((of, False) for of in means.values()), *((_score(task), task.falls) for task in results.tasks)]
    best = [best_of([of(row) for row in merges(results)], falls) for of, falls in columns]
    rows = []
    for row in ranked(results):
        numbers = _numbers(row, [of(row) for of, _ in columns], best, results, "of experts" in means)
        rows.append(_row(row, results, [*numbers, *(of(row) for of in words.values())]))
    body = f"<tbody>{''.join(rows)}</tbody>"
    if theirs:
        body += f'<tbody class="published">{"".join(_theirs(told, means, results, words) for told in theirs)}</tbody>'
    return f'<table class="leaderboard"><thead><tr>{"".join(heads)}</tr></thead>{body}</table>'


def _means(results: Results, theirs: Sequence[Published]) -> dict[str, Callable[[Row], float | None]]:
    """The columns of means in which there is a number."""
    known = {"of experts": results.mean_share}
    if len(results.tasks) > 1:
        known["mean"] = results.mean
    told = {name for row in theirs for name, value in _means_of(row).items() if value is not None}
    told |= {name for name, of in known.items() if any(of(row) is not None for row in results.rows)}
    return {name: of for name, of in known.items() if name in told}


def _means_of(told: Published) -> dict[str, float | None]:
    return {"of experts": told.share, "mean": told.mean}


def _score(task: Column) -> Callable[[Row], float | None]:
    return lambda row: score_of(row, task.name)


def _row(row: Row, results: Results, cells: Sequence[str]) -> str:
    kind = ' class="reference"' if group_of(row) == "reference" else ""
    return f"<tr{kind}><td>{_broken(label(row, results))}</td>{''.join(cells)}</tr>"


def _numbers(
    row: Row, values: Sequence[float | None], best: Sequence[float | None], results: Results, shares: bool
) -> Iterator[str]:
    """Bold is the best merge: what merges are compared with is no part of the contest."""
    competes = group_of(row) != "reference"
    for k, (value, most) in enumerate(zip(values, best, strict=True)):
        spread = apart(row) if shares and k == 0 else ""
        yield _number(value, bold=competes and value is not None and value == most, spread=spread)


def _number(value: float | None, bold: bool = False, spread: str = "") -> str:
    if value is None:
        return "<td></td>"
    text = f"<b>{shown(value)}</b>" if bold else shown(value)
    return f'<td data-value="{value}">{text}{f"<small>{spread}</small>" if spread else ""}</td>'


def shown(value: float) -> str:
    """A score as text: three places, or a large perplexity whole."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _heading(task: Column, several: bool) -> str:
    """The metric is told under the task where tasks differ in it."""
    return _broken(task.name) + (f"<small>{_broken(task.metric)}</small>" if several else "")


def _broken(name: str) -> str:
    """A name that may, if it is long, go on in the next line after an underscore or a slash."""
    text = escape(name)
    for mark in "_/" if len(name) > _LONG else "":
        text = text.replace(mark, f"{mark}<wbr>")
    return text


def _words(results: Results, theirs: Sequence[Published]) -> dict[str, Callable[[Row], str]]:
    """The columns that are no scores, as far as there is something to say."""
    settings = any(settings_of(row) for row in results.rows) or any(row.setting for row in theirs)
    seconds = any("merge_seconds" in row.facts for row in results.rows)
    known: dict[str, tuple[bool, Callable[[Row], str]]] = {
        "settings": (settings, lambda row: _text(settings_of(row))),
        "data used": (any("data" in row.facts for row in results.rows), lambda row: _text(row.facts.get("data", ""))),
        _SECONDS: (seconds, lambda row: _seconds(row.facts.get("merge_seconds"))),
        "checkpoints": (bool(theirs), lambda row: _text(results.facts.get("checkpoints", ""))),
        "source": (bool(theirs), lambda row: _text("measured here")),
    }
    return {name: of for name, (wanted, of) in known.items() if wanted}


def _text(value: Any) -> str:
    return f'<td class="words">{escape(str(value))}</td>' if value != "" else "<td></td>"


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return "<td></td>"
    return f'<td data-value="{value}">{value:.1f}</td>'


# What papers report


def published(results: Results) -> list[Published]:
    """The rows of papers that a protocol's results bring along.

    Raises:
        InputError: if they are not such rows.
    """
    told = results.facts.get("published", [])
    if isinstance(told, list):
        told = [{k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else row for row in told]
    try:
        return TypeAdapter(list[Published]).validate_python(told)
    except ValidationError as error:
        item = error.errors()[0]
        what = f"{results.title}: its published rows: {' '.join(map(str, (*item['loc'], worded(item))))}"
        raise InputError(what, "name a file that `weft bench -o` wrote") from None


def _theirs(told: Published, means: Mapping[str, Any], results: Results, words: Mapping[str, Any]) -> str:
    """Papers tell percent; here it is parts of one, as ours."""
    values = [*(_means_of(told)[name] for name in means), *(told.tasks.get(task.name) for task in results.tasks)]
    numbers = [_number(None if value is None else value / 100) for value in values]
    text = {"settings": told.setting, "checkpoints": told.checkpoints, "source": f"{told.source} [{told.mark}]"}
    cells = [*numbers, *(_text(text.get(name, "")) for name in words)]
    return f"<tr><td>{_broken(told.method)}</td>{''.join(cells)}</tr>"


# Scores by task


def by_task(results: Results) -> str:
    """Scores, or parts of the experts' where all are known; the ground of a column goes from its worst to its best."""
    shares = shares_known(results)
    grounds = {task.name: _grounds(results, task, shares) for task in results.tasks}
    heads = "".join(f"<th>{_heading(task, len({t.metric for t in results.tasks}) > 1)}</th>" for task in results.tasks)
    rows = (
        _row(row, results, [_cell(row, task, shares, grounds[task.name]) for task in results.tasks])
        for row in ranked(results)
    )
    return f'<table class="heat"><thead><tr><th>model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def shares_known(results: Results) -> bool:
    """Whether all scores are also known as parts of the experts'."""
    return all(score.share is not None for row in results.rows for score in row.scores.values())


def _shown_of(row: Row, task: Column, shares: bool) -> float | None:
    if task.name not in row.scores:
        return None
    return row.scores[task.name].share if shares else row.scores[task.name].score


def _grounds(results: Results, task: Column, shares: bool) -> Callable[[float], float]:
    """How good a number of the column is, from 0 to 1."""
    found = [value for row in results.rows if (value := _shown_of(row, task, shares)) is not None]
    low, high = min(found, default=0.0), max(found, default=0.0)
    if low == high:
        return lambda value: 0.5
    falls = task.falls and not shares
    return lambda value: (high - value if falls else value - low) / (high - low)


def _cell(row: Row, task: Column, shares: bool, goodness: Callable[[float], float]) -> str:
    value = _shown_of(row, task, shares)
    if value is None:
        return "<td></td>"
    return f'<td data-value="{value}" style="background:#{bytes(blended(goodness(value))).hex()}">{shown(value)}</td>'


def blended(part: float) -> tuple[int, int, int]:
    """The ground of a cell.

    Example:
        >>> blended(0.0), blended(0.75), blended(1.0)
        ((243, 246, 249), (132, 190, 226), (86, 166, 216))
    """
    k, rest = (0, part * 2) if part < 0.5 else (1, part * 2 - 1)
    red, green, blue = (round(a + (b - a) * rest) for a, b in zip(_GROUND[k], _GROUND[k + 1], strict=True))
    return red, green, blue
