"""The pictures of a page, drawn by Plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import import_module
from math import log10
from typing import Any

from weft.errors import InputError
from weft.evaluation.report_labels import padded, positions, ticks
from weft.evaluation.report_rows import Group, Worth, apart, group_of, label, ranked
from weft.evaluation.report_tables import shown
from weft.evaluation.results import Curve, Results, Row

INK, QUIET, LINES = "#1f2933", "#6b7785", "#e4e8ec"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#7f7f7f", "#b8860b", "#111111")
"""After Okabe and Ito: told apart by colour-blind eyes."""
SHADES: dict[Group, str] = {"tuned": "#0072b2", "default": "#8cbfe0", "model": "#3690c8", "reference": "#b6bec6"}
_INSTANT = 1e-3
"""Seconds of the fastest merge that a logarithmic axis shows."""


def plotly() -> Any:
    """The library that draws.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module("plotly.graph_objects")
    except ImportError:
        what, remedy = "a report needs plotly, which is not installed", 'pip install "weft[report]"'
        raise InputError(what, remedy) from None


def drawn(figure: Any) -> str:
    """A figure as part of the page; the script is there once already."""
    options = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=options))


def _figure(height: int, across: str = "", up: str = "", **layout: Any) -> Any:
    figure = plotly().Figure()
    axis = {"gridcolor": LINES, "zeroline": False, "linecolor": LINES, "title_font": {"color": QUIET, "size": 13}}
    figure.update_layout(
        height=height, margin={"l": 10, "r": 20, "t": 10, "b": 10}, paper_bgcolor="white", plot_bgcolor="white",
        font={"family": "system-ui, sans-serif", "color": INK, "size": 13}, colorway=list(COLOURS), template="none",
        xaxis={**axis, "title": {"text": escape(across), "standoff": 12}, "automargin": True}, hovermode="closest",
        yaxis={**axis, "title": {"text": escape(up), "standoff": 14}, "automargin": True},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        **layout,
    )  # fmt: skip
    return figure


def named_groups(rows: Sequence[Row]) -> dict[Group, str]:
    """The kinds of rows that there are, and what the legend calls them."""
    there = {group_of(row) for row in rows}
    merged = all("method" in row.facts for row in rows if group_of(row) == "model")
    known: dict[Group, str] = {
        "tuned": "merged, tuned settings",
        "default": "merged, default settings",
        "model": "merged" if merged else "models",
        "reference": "to compare with",
    }
    return {group: name for group, name in known.items() if group in there}


def bars(results: Results, worth: Worth) -> Any:
    """What the rows are ranked by, best on top."""
    rows = [row for row in reversed(ranked(results)) if worth.of(row) is not None]
    spread = worth.of == results.mean_share
    values = [worth.of(row) or 0.0 for row in rows]
    figure = _figure(120 + 26 * len(rows), worth.what, barmode="overlay")
    names = [label(row, results) for row in rows]
    told = [f"{shown(value)}{apart(row) if spread else ''}" for value, row in zip(values, rows, strict=True)]
    for group, name in named_groups(rows).items():
        own = [k for k, row in enumerate(rows) if group_of(row) == group]
        hovers = [f"{names[k]}: {told[k]}" for k in own]
        _add_bars(figure, own, [values[k] for k in own], hovers, name=name, color=SHADES[group])
    _finish_bars(figure, values, names)
    return figure


def _add_bars(
    figure: Any, places: Sequence[int], values: Sequence[float], hovers: Sequence[str], *, name: str, color: str
) -> None:
    figure.add_bar(
        x=list(values), y=list(places), orientation="h", marker_color=color, name=name, textposition="outside",
        width=0.8, text=[shown(value) for value in values], cliponaxis=False,
        hovertext=[escape(each) for each in hovers], hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _finish_bars(figure: Any, values: Sequence[float], names: Sequence[str]) -> None:
    """Numbers stand beyond the bars' ends, in the margin; names may be equal, so bars are told by their place."""
    low, high = min(0.0, *values), max(0.0, *values)
    figure.update_layout(margin_r=50)
    figure.update_xaxes(range=[low * 1.1, high or 1.0], nticks=7)
    figure.update_yaxes(
        showgrid=False, ticksuffix=" ", tickvals=list(range(len(names))), ticktext=[escape(name) for name in names],
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip


def curve_picture(curve: Curve) -> Any:
    """Lines, points, or bars where each series is one number."""
    if not curve.points:
        return _lines(curve)
    return _steps(curve) if all(len(s.x) == 1 and s.x[0] == 0.0 for s in curve.series) else _points(curve)


def _lines(curve: Curve) -> Any:
    figure = _figure(430, curve.across, curve.up)
    for k, series in enumerate(curve.series):
        figure.add_scatter(
            x=list(series.x), y=list(series.y), name=escape(series.name), mode="lines+markers", marker={"size": 6},
            line={"width": 2, "dash": "solid" if k < len(COLOURS) else "dot"}, cliponaxis=False, showlegend=True,
            hovertemplate=f"{escape(series.name)}: %{{y:.4f}} at %{{x:.4g}}<extra></extra>",
        )  # fmt: skip
    return figure


def _steps(curve: Curve) -> Any:
    """One number for each series: bars say it."""
    figure = _figure(90 + 30 * len(curve.series), curve.up, showlegend=False)
    values, names = [s.y[0] for s in reversed(curve.series)], [s.name for s in reversed(curve.series)]
    hovers = [f"{name}: {shown(value)}" for name, value in zip(names, values, strict=True)]
    _add_bars(figure, range(len(names)), values, hovers, name="", color=COLOURS[0])
    _finish_bars(figure, values, names)
    return figure


def _points(curve: Curve) -> Any:
    figure = _figure(520, curve.across, curve.up, showlegend=False)
    found = [(s.x[k], s.y[k], s.name) for s in curve.series for k in range(len(s.x))]
    spans = padded([x for x, _, _ in found]), padded([y for _, y, _ in found])
    _add_points(figure, found, *spans, [COLOURS[0]] * len(found), _placed(found, *spans))
    return figure


def time_and_worth(results: Results, worth: Worth) -> Any:
    """What a merge costs and what it is worth: points, whose times go from parts of a second to hours."""
    rows = timed(results, worth)
    figure = _figure(520, "seconds of the merge", worth.what)
    found = [(_seconds(row), worth.of(row) or 0.0, label(row, results)) for row in rows]
    spans = padded([log10(x) for x, _, _ in found]), padded([y for _, y, _ in found])
    places = _placed([(log10(x), y, name) for x, y, name in found], *spans)
    for group, name in named_groups(rows).items():
        own = [k for k, row in enumerate(rows) if group_of(row) == group]
        shades = [SHADES[group]] * len(own)
        _add_points(figure, [found[k] for k in own], *spans, shades, [places[k] for k in own], name=name)
    marks = ticks(*spans[0])
    figure.update_xaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    return figure


def timed(results: Results, worth: Worth) -> list[Row]:
    """The merges whose time is known, best first: so their names find room first."""
    rows = [row for row in ranked(results) if worth.of(row) is not None]
    return [row for row in rows if isinstance(row.facts.get("merge_seconds"), int | float)]


def _seconds(row: Row) -> float:
    return max(float(row.facts["merge_seconds"]), _INSTANT)


Point = tuple[float, float, str]
Span = tuple[float, float]


def _placed(points: Sequence[Point], across: Span, up: Span) -> list[str | None]:
    parts = [((x - across[0]) / (across[1] - across[0]), (y - up[0]) / (up[1] - up[0])) for x, y, _ in points]
    return positions(parts, [name for _, _, name in points])


def _add_points(
    figure: Any, points: Sequence[Point], across: Span, up: Span, shades: Sequence[str],
    places: Sequence[str | None], name: str = "",
) -> None:  # fmt: skip
    figure.add_scatter(
        x=[x for x, _, _ in points], y=[y for _, y, _ in points], name=name, mode="markers+text",
        text=[escape(told) if place else "" for (_, _, told), place in zip(points, places, strict=True)],
        textposition=[place or "middle right" for place in places], textfont={"size": 11, "color": QUIET},
        marker={"size": 10, "color": list(shades), "line": {"width": 1, "color": "white"}}, cliponaxis=False,
        hovertext=[escape(told) for _, _, told in points],
        hovertemplate="%{hovertext}: %{y:.4f} at %{x:.4g}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(range=list(across))
    figure.update_yaxes(range=list(up))
