"""Results as one page that opens anywhere: a leaderboard, bars, curves. The script that draws is inside the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError
from weft.evaluation.outputs import PAGE_MARK, check_output, is_page
from weft.evaluation.report_pictures import bars, curve_picture, drawn, plotly, time_and_worth, timed
from weft.evaluation.report_rows import Worth, is_base, worth_of
from weft.evaluation.report_tables import by_task, leaderboard, published, shares_known
from weft.evaluation.results import Results, Row, load_results

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2933; margin: 0 auto;
       max-width: 1400px; padding: 32px 28px 64px; background: #fff; box-sizing: border-box; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 44px 0 8px; }
h2.title { font-size: 22px; margin-top: 56px; padding-top: 20px; border-top: 1px solid #e4e8ec;
           overflow-wrap: anywhere; }
p.about { color: #6b7785; margin: 0 0 24px; max-width: 90ch; overflow-wrap: anywhere; }
h2 + p.about { margin: 0 0 8px; }
p.note { color: #6b7785; margin: 8px 0 0; max-width: 90ch; }
.scroll { overflow-x: auto; }
.wide { min-width: 860px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: 13px; }
th { text-align: right; font-weight: 600; color: #6b7785; padding: 6px 7px; border-bottom: 2px solid #e4e8ec;
     vertical-align: bottom; cursor: pointer; user-select: none; }
th small { display: block; font-weight: 400; font-size: 11.5px; }
td { text-align: right; padding: 5px 7px; border-bottom: 1px solid #eef1f4; white-space: nowrap; }
td small { color: #6b7785; font-size: 11.5px; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; z-index: 1;
                                 padding-left: 0; }
th.words, th:last-child { white-space: nowrap; }
td.words, th.words { text-align: left; color: #6b7785; font-size: 12px; }
td.words { white-space: normal; min-width: 15ch; max-width: 34ch; line-height: 1.35; }
tr.reference td:first-child { font-style: italic; }
tbody.published td { color: #52606d; }
tbody.published tr:first-child td { border-top: 2px solid #e4e8ec; }
table.heat td { border: 1px solid #fff; padding: 4px 10px; }
table.heat th { min-width: 62px; padding: 6px 10px; }
table.heat th:first-child, table.heat td:first-child { padding: 4px 10px 4px 0; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
@media (max-width: 700px) {
  body { padding: 20px 12px 48px; }
  td.words { min-width: 26ch; }
  td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 12ch; max-width: 34vw; }
  th:first-child, td:first-child { padding-right: 10px; border-right: 1px solid #e4e8ec; }
}
"""
_SORT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
                         const value = parseFloat(text); return isNaN(value) ? text : value; };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      const told = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : (typeof x === "number" ? 1 : -1);
      return down ? -told : told; };
    for (const body of table.tBodies) body.append(...[...body.rows].sort(order));
  }));
}
"""


def write_report(results: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    """Write a page of one or several results.

    Args:
        results: JSON files that `weft evaluate -o` or the benchmark wrote; rows of the same tasks share a table.
        output: the page; an earlier page is replaced.
        overwrite: whether another file may be replaced, too.

    Raises:
        InputError: if a file is no results, the page cannot be written there, or Plotly is not installed.
    """
    what = "a page that weft report wrote"
    check_output(output, inputs=results, is_ours=is_page, what=what, overwrite=overwrite)
    page = report([load_results(path) for path in results], [path.stem for path in results])
    making = output.with_name(f".{output.name}.making")
    making.write_text(page, encoding="utf-8")
    making.replace(output)


def report(results: Sequence[Results], names: Sequence[str]) -> str:
    """The page.

    Args:
        results: one or several tables.
        names: what to call a table that has no title.

    Raises:
        InputError: if Plotly is not installed, or there is nothing to show.
    """
    if not any(each.rows and each.tasks for each in results):
        raise InputError(
            "the results have no rows", "evaluate a model first: weft evaluate MODEL --tasks TASKS -o FILE"
        )
    for each, name in zip(results, names, strict=True):
        published(each if each.title else replace(each, title=name))
    tables = _joined(results, names)
    title = tables[0].title if len(tables) == 1 else "Results"
    body = "\n".join(part for table in tables for part in _sections(table, len(tables) > 1))
    script = import_module("plotly.offline").get_plotlyjs() if plotly() else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{PAGE_MARK}\n'
        f'<title>{escape(title)}</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n<script>{script}</script>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n<script>{_SORT}</script>\n</body>\n</html>\n"
    )


def _joined(results: Sequence[Results], names: Sequence[str]) -> list[Results]:
    """Tables of the same tasks as one; a row's name is told apart by its file's where it must be."""
    made: dict[Any, Results] = {}
    for each, name in zip(results, names, strict=True):
        key = (tuple(each.tasks), each.split)
        titled = Results(each.tasks, each.rows, each.split, each.title or name, each.curves, each.facts)
        made[key] = _beside(made[key], titled, name) if key in made else titled
    return list(made.values())


def _beside(left: Results, right: Results, name: str) -> Results:
    known = {row.name: row for row in left.rows}
    fresh = [row for row in right.rows if known.get(row.name) is None or known[row.name].scores != row.scores]
    rows = [_renamed(row, f"{row.name} ({name})") if row.name in known else row for row in fresh]
    curves, facts = [*left.curves, *right.curves], {**left.facts, **_published_by_both(left, right)}
    return Results(left.tasks, [*left.rows, *rows], left.split, left.title, curves, facts)


def _renamed(row: Row, name: str) -> Row:
    """The row under another name; that it is the base, which its name told, is told."""
    return replace(row, name=name, facts={**row.facts, "role": "base"} if is_base(row) else row.facts)


def _published_by_both(left: Results, right: Results) -> dict[str, Any]:
    found = [*left.facts.get("published", []), *right.facts.get("published", [])]
    return {"published": [row for k, row in enumerate(found) if row not in found[:k]]} if found else {}


def _sections(results: Results, several: bool) -> Iterator[str]:
    if several:
        yield f'<h2 class="title">{escape(results.title)}</h2>'
    yield _about(_what(results))
    yield "<h2>Leaderboard</h2>"
    yield f'<div class="scroll">{leaderboard(results)}</div>'
    yield from (_about(note, "note") for note in _notes(results))
    worth = worth_of(results)
    if worth is None:
        yield _about(_why_no_mean(results), "note")
    else:
        yield f"<h2>{'Means' if len(results.tasks) > 1 else 'Scores'}</h2>"
        yield drawn(bars(results, worth))
    if len(results.tasks) > 1:
        yield "<h2>By task</h2>"
        what = "Each score as a part of the expert's." if shares_known(results) else "Scores."
        yield _about(f"{what} Darker is better; each column has its own range.")
        yield f'<div class="scroll">{by_task(results)}</div>'
    yield from _curves(results, worth)


def _about(text: str, kind: str = "about") -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def _what(results: Results) -> str:
    metrics = sorted({task.metric for task in results.tasks})
    models, tasks = _counted(len(results.rows), "model"), _counted(len(results.tasks), "task")
    seeds = results.facts.get("seeds")
    of = f", means over seeds {', '.join(map(str, seeds))}" if isinstance(seeds, list) and len(seeds) > 1 else ""
    told = f"metric{'s' if len(metrics) > 1 else ''} {', '.join(metrics)}"
    return f"{models}, {tasks}, split {results.split}, {told}{of}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _notes(results: Results) -> Iterator[str]:
    """What a reader of the leaderboard should know."""
    if any("apart" in row.facts for row in results.rows):
        yield "± is the standard deviation between seeds. A row that names seeds is of those alone."
    if results.facts.get("published"):
        if results.facts.get("examples"):
            yield f"Only {results.facts['examples']} examples of each task were asked; the papers asked all."
        yield "The lower rows are what papers report. Those of other checkpoints than ours are no target."
    for doubt in results.facts.get("unconfirmed", ()):
        yield f"Unconfirmed: {doubt}"


def _why_no_mean(results: Results) -> str:
    if any(task.falls for task in results.tasks):
        return (
            "There is no mean: of some of these metrics more is better, of others less. "
            "With --experts, weft evaluate tells each score as a part of the expert's, and those have a mean."
        )
    return "There is no mean: no model was asked all tasks."


def _curves(results: Results, worth: Worth | None) -> Iterator[str]:
    if worth is not None and len(timed(results, worth)) > 1:
        yield "<h2>Time and worth</h2>"
        yield _about("Names stand where they have room; the others show under the pointer.")
        yield f'<div class="scroll"><div class="wide">{drawn(time_and_worth(results, worth))}</div></div>'
    own = results.facts.get("curves of")
    for curve in results.curves:
        if any(len(series.x) for series in curve.series):
            yield f"<h2>{escape(curve.title)}</h2>"
            if isinstance(own, list) and own != results.facts.get("seeds", own):
                yield _about(f"Of seed {', '.join(map(str, own))} alone.")
            yield drawn(curve_picture(curve))
