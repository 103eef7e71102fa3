"""Results as one page that opens anywhere: a leaderboard, bars, curves. The script that draws is inside the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError
from weft.evaluation.results import Column, Curve, Results, Row, Series, load_results

INK, QUIET, LINES = "#1f2933", "#6b7785", "#e4e8ec"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#7f7f7f", "#b8860b", "#111111")
"""After Okabe and Ito: told apart by colour-blind eyes."""
_REPORT = 'pip install "weft[report]"'
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2933; margin: 0 auto;
       max-width: 1400px; padding: 32px 28px 64px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 44px 0 8px; }
p.about { color: #6b7785; margin: 0 0 24px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; white-space: nowrap; }
th { text-align: right; font-weight: 600; color: #6b7785; padding: 6px 10px; border-bottom: 2px solid #e4e8ec;
     vertical-align: bottom; cursor: pointer; user-select: none; }
th small { display: block; font-weight: 400; font-size: 11.5px; }
td { text-align: right; padding: 5px 10px; border-bottom: 1px solid #eef1f4; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td.words, th.words { text-align: left; color: #6b7785; }
tr.reference td:first-child { font-style: italic; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
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
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : (typeof x === "number" ? 1 : -1);
      return down ? -order : order; });
    table.tBodies[0].append(...rows);
  }));
}
"""


def write_report(results: Sequence[Path], output: Path) -> None:
    """Write a page of one or several results.

    Args:
        results: JSON files that `weft evaluate -o` or the benchmark wrote; rows of the same tasks share a table.
        output: the page.

    Raises:
        InputError: if a file is no results, or Plotly is not installed.
    """
    page = report([load_results(path) for path in results], [path.stem for path in results])
    output.parent.mkdir(parents=True, exist_ok=True)
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
    tables = _joined(results, names)
    title = tables[0].title if len(tables) == 1 else "Results"
    body = "\n".join(part for table in tables for part in _sections(table, len(tables) > 1))
    script = import_module("plotly.offline").get_plotlyjs() if _plotly() else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n<script>{script}</script>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n<script>{_SORT}</script>\n</body>\n</html>\n"
    )


def _plotly() -> Any:
    try:
        return import_module("plotly.graph_objects")
    except ImportError:
        raise InputError("a report needs plotly, which is not installed", _REPORT) from None


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
    return Results(left.tasks, [*left.rows, *rows], left.split, left.title, [*left.curves, *right.curves], left.facts)


def _renamed(row: Row, name: str) -> Row:
    return Row(name, row.scores, row.role, row.path, row.seconds, row.facts)


def _sections(results: Results, several: bool) -> Iterator[str]:
    metrics = sorted({task.metric for task in results.tasks})
    if several:
        yield f"<h2>{escape(results.title)}</h2>"
    yield (
        f'<p class="about">{len(results.rows)} models, {len(results.tasks)} tasks, split {escape(results.split)}, '
        + (f"metric {escape(metrics[0])}</p>" if len(metrics) == 1 else f"metrics {escape(', '.join(metrics))}</p>")
    )
    yield "<h2>Leaderboard</h2>"
    yield f'<div class="scroll">{_table(results)}</div>'
    yield "<h2>Means</h2>"
    yield _drawn(_bars(results))
    if len(results.tasks) > 1:
        yield "<h2>By task</h2>"
        yield _drawn(_heat(results))
    trade = _trade_off(results)
    for curve in (*([trade] if trade else []), *results.curves):
        if any(len(series.x) for series in curve.series):
            yield f"<h2>{escape(curve.title)}</h2>"
            yield _drawn(_picture(curve))


def _worth(results: Results, row: Row) -> float:
    """What rows are ranked by: parts of the experts' scores if they are known, else the mean."""
    share, mean = results.mean_share(row), results.mean(row)
    return share if share is not None else mean if mean is not None else float("-inf")


def _ranked(results: Results) -> list[Row]:
    return sorted(results.rows, key=lambda row: -_worth(results, row))


# The leaderboard


def _table(results: Results) -> str:
    means = {"of experts": results.mean_share, "mean": results.mean}
    shown = {name: of for name, of in means.items() if any(of(row) is not None for row in results.rows)}
    facts = [name for name in _FACTS if any(name in row.facts for row in results.rows)]
    heads = ["<th>model</th>", *(f"<th>{name}</th>" for name in shown)]
    several = len({task.metric for task in results.tasks}) > 1
    heads += [f"<th>{_heading(task, several)}</th>" for task in results.tasks]
    heads += [f'<th class="words">{_FACTS[name]}</th>' for name in facts]
    best = {task.name: _best(results, task.name, task.falls) for task in results.tasks}
    rows = []
    for row in _ranked(results):
        cells = [f"<td>{escape(row.name)}</td>", *(_number(of(row)) for of in shown.values())]
        cells += [
            _number(_score(row, task.name), bold=_score(row, task.name) == best[task.name]) for task in results.tasks
        ]
        cells += [_fact(row.facts.get(name)) for name in facts]
        kind = "" if row.role == "model" else ' class="reference"'
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _heading(task: Column, several: bool) -> str:
    """The metric is told under the task where tasks differ in it."""
    return escape(task.name) + (f"<small>{escape(task.metric)}</small>" if several else "")


_FACTS = {"settings": "settings", "data": "data used", "merge_seconds": "merge, s"}
"""Facts that have a column, and what it is called."""


def _score(row: Row, task: str) -> float | None:
    return row.scores[task].score if task in row.scores else None


def _best(results: Results, task: str, falls: bool) -> float | None:
    """The best score of a merged model; experts and ensembles are there to compare with."""
    found = [score for row in results.rows if row.role == "model" and (score := _score(row, task)) is not None]
    return (min(found) if falls else max(found)) if len(found) > 1 else None


def _number(value: float | None, bold: bool = False) -> str:
    if value is None:
        return "<td></td>"
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f'<td data-value="{value}">{f"<b>{text}</b>" if bold else text}</td>'


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        value = (
            ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in value.items()) or "defaults"
        )
    if isinstance(value, float):
        return f'<td data-value="{value}">{value:.1f}</td>'
    return f'<td class="words">{escape(str(value)) if value is not None else ""}</td>'


# Pictures


def _drawn(figure: Any) -> str:
    """A figure as part of the page; the script is there once already."""
    options = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=options))


def _figure(height: int, across: str = "", up: str = "", **layout: Any) -> Any:
    figure = _plotly().Figure()
    axis = {"gridcolor": LINES, "zeroline": False, "linecolor": LINES, "title_font": {"color": QUIET, "size": 13}}
    figure.update_layout(
        height=height, margin={"l": 10, "r": 20, "t": 10, "b": 10}, paper_bgcolor="white", plot_bgcolor="white",
        font={"family": "system-ui, sans-serif", "color": INK, "size": 13}, colorway=list(COLOURS), template="none",
        xaxis={**axis, "title": {"text": across, "standoff": 12}, "automargin": True}, hovermode="closest",
        yaxis={**axis, "title": {"text": up, "standoff": 14}, "automargin": True}, **layout,
    )  # fmt: skip
    return figure


def _bars(results: Results) -> Any:
    rows = [row for row in reversed(_ranked(results)) if _worth(results, row) > float("-inf")]
    shares = all(results.mean_share(row) is not None for row in rows)
    figure = _figure(90 + 26 * len(rows), "mean, as a part of the experts' scores" if shares else "mean score")
    worth = [_worth(results, row) for row in rows]
    colours = [_shade(row) for row in rows]
    figure.add_bar(
        x=worth, y=[row.name for row in rows], orientation="h", marker_color=colours, text=[f"{w:.3f}" for w in worth],
        textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(showgrid=False, type="category", ticksuffix=" ")
    figure.update_xaxes(range=[0, max(worth, default=1.0) * 1.08])
    return figure


def _shade(row: Row) -> str:
    """Merged models in blue, tuned ones darker; what they are compared with in grey."""
    if row.role != "model" or (not row.facts and row.name == "base"):
        return "#b6bec6"
    return "#8cbfe0" if row.facts.get("variant") == "untuned" else "#0072b2"


def _heat(results: Results) -> Any:
    rows = list(reversed(_ranked(results)))
    shares = all(score.share is not None for row in rows for score in row.scores.values())
    values = [
        [(row.scores[t.name].share if shares else row.scores[t.name].score) if t.name in row.scores else None
         for t in results.tasks] for row in rows
    ]  # fmt: skip
    figure = _figure(110 + 26 * len(rows))
    figure.add_heatmap(
        z=values, x=[task.name for task in results.tasks], y=[row.name for row in rows],
        colorscale=[[0, "#f3f6f9"], [0.5, "#9cc9e6"], [1, "#0072b2"]], xgap=2, ygap=2, texttemplate="%{z:.3f}",
        hovertemplate="%{y} on %{x}: %{z:.4f}<extra></extra>", showscale=False,
    )  # fmt: skip
    figure.update_xaxes(side="top", showgrid=False, type="category")
    figure.update_yaxes(showgrid=False, type="category", ticksuffix=" ")
    return figure


def _lines(curve: Curve) -> Any:
    figure = _figure(430, curve.across, curve.up, legend={"orientation": "v", "x": 1.01, "y": 1})
    for k, series in enumerate(curve.series):
        figure.add_scatter(
            x=list(series.x), y=list(series.y), name=series.name, mode="lines+markers", marker={"size": 6},
            line={"width": 2, "dash": "solid" if k < len(COLOURS) else "dot"},
            hovertemplate=f"{escape(series.name)}: %{{y:.4f}} at %{{x:.4g}}<extra></extra>",
        )  # fmt: skip
    return figure


def _points(curve: Curve) -> Any:
    """Points with their names beside them; names take turns above and below, so that neighbours can be read."""
    figure = _figure(520, curve.across, curve.up, showlegend=False)
    named = sorted(
        ((s.x[k], s.y[k], s.name) for s in curve.series for k in range(len(s.x))), key=lambda point: point[1]
    )
    figure.add_scatter(
        x=[x for x, _, _ in named], y=[y for _, y, _ in named], text=[escape(name) for _, _, name in named],
        mode="markers+text", textposition=["top center" if k % 2 else "bottom center" for k in range(len(named))],
        marker={"size": 10, "color": COLOURS[0]}, textfont={"size": 11, "color": QUIET}, cliponaxis=False,
        hovertemplate="%{text}: %{y:.4f} at %{x:.4g}<extra></extra>",
    )  # fmt: skip
    return figure


def _picture(curve: Curve) -> Any:
    if not curve.points:
        return _lines(curve)
    return _steps(curve) if _is_ablation(curve) else _points(curve)


def _is_ablation(curve: Curve) -> bool:
    return curve.points and all(len(series.x) == 1 and series.x[0] == 0.0 for series in curve.series)


def _steps(curve: Curve) -> Any:
    """One number for each series: bars say it."""
    figure = _figure(90 + 30 * len(curve.series), curve.up)
    worth = [series.y[0] for series in reversed(curve.series)]
    figure.add_bar(
        x=worth, y=[series.name for series in reversed(curve.series)], orientation="h", marker_color=COLOURS[0],
        text=[f"{w:.3f}" for w in worth], textposition="outside", cliponaxis=False,
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(range=[0, max(worth) * 1.08])
    figure.update_yaxes(showgrid=False, type="category", ticksuffix=" ")
    return figure


def _trade_off(results: Results) -> Curve | None:
    """What a merge costs and what it is worth, where merges were timed."""
    timed = [row for row in results.rows if "merge_seconds" in row.facts and _worth(results, row) > float("-inf")]
    if len(timed) < 2:
        return None
    series = [Series(row.name, [float(row.facts["merge_seconds"])], [_worth(results, row)]) for row in timed]
    return Curve(
        "Time and worth", "seconds of the merge", "mean, as a part of the experts' scores", series, points=True
    )
