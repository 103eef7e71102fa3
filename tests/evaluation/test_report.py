"""The page: whole, by itself, true to the results; opened in a browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.report import report, write_report
from weft.evaluation.results import Column, Curve, Results, Row, Score, Series

pytest.importorskip("plotly")

TASKS = [Column("colour", "classification", "accuracy"), Column("text", "language-modelling", "perplexity", falls=True)]


def row(name: str, accuracy: float, perplexity: float, role: str = "model", **facts: object) -> Row:
    scores = {
        "colour": Score(accuracy, {"accuracy": accuracy}, accuracy / 0.8),
        "text": Score(perplexity, {"perplexity": perplexity}, 10 / perplexity),
    }
    return Row(name, scores, role, facts=facts)


def results() -> Results:
    rows = [
        row("base", 0.2, 40.0),
        row("ties", 0.6, 20.0, variant="untuned", settings={}, merge_seconds=1.25),
        row("<ties>, tuned", 0.72, 15.0, variant="tuned", settings={"scale": 0.3}, merge_seconds=1.5),
        row("experts", 0.8, 10.0, "experts"),
    ]
    curves = [
        Curve("Sensitivity to scale", "scale", "mean", [Series("ties", [0.1, 0.5], [0.4, 0.6])]),
        Curve("Steps", "", "mean", [Series("whole", [0.0], [0.6]), Series("less", [0.0], [0.5])], points=True),
    ]
    return Results(TASKS, rows, title="A & B", curves=curves)


class Page(HTMLParser):
    """The cells of the first table, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        self._cell = self._cell or tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_the_table_is_ranked_and_says_what_the_results_say() -> None:
    page = Page(report([results()], ["r"]))
    assert page.rows == [
        ["model", "of experts", "colouraccuracy", "textperplexity", "settings", "merge, s"],
        ["experts", "1.000", "0.800", "10.000", "", ""],
        ["<ties>, tuned", "0.783", "0.720", "15.000", "scale=0.3", "1.5"],
        ["ties", "0.625", "0.600", "20.000", "defaults", "1.2"],
        ["base", "0.250", "0.200", "40.000", "", ""],
    ]


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    text = report([results()], ["r"])
    assert Page(text).fetched == []
    assert text.count("<title>A &amp; B</title>") == 1
    assert "<ties>" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    for title in ("Leaderboard", "Means", "By task", "Time and worth", "Sensitivity to scale", "Steps"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("Plotly.newPlot(") >= 5


def test_results_of_the_same_tasks_share_a_table() -> None:
    other = Results(TASKS, [row("ties", 0.5, 30.0), row("base", 0.2, 40.0)])
    rows = Page(report([results(), other], ["one", "two"])).rows
    assert [cells[0] for cells in rows] == ["model", "experts", "<ties>, tuned", "ties", "ties (two)", "base"]


def test_results_of_other_tasks_have_their_own() -> None:
    other = Results(TASKS[:1], [row("ties", 0.5, 30.0)])
    text = report([results(), other], ["one", "two"])
    assert "<h1>Results</h1>" in text
    assert text.count("<table>") == 2


def test_nothing_to_show_is_told() -> None:
    with pytest.raises(InputError, match="the results have no rows"):
        report([Results([], [])], ["r"])


def test_the_command(tmp_path: Path) -> None:
    results().save(tmp_path / "r.json")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "deep/page.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deep/page.html").read_text().startswith("<!doctype html>")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "none.json")])
    assert done.exit_code == 2
    assert "No such file" in done.output


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_it_opens_in_a_browser_without_an_error(tmp_path: Path) -> None:
    """Every figure is drawn, and the console stays silent."""
    results().save(tmp_path / "r.json")
    write_report([tmp_path / "r.json"], tmp_path / "page.html")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=20000", f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/page.html",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    drawn = re.findall(r'<svg class="main-svg"', done.stdout)
    assert len(drawn) >= 6
