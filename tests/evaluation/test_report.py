"""The page: whole, by itself, true to the results; opened in a browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest
from click.testing import Result
from typer.testing import CliRunner

from weft.cli.app import app
from weft.errors import InputError
from weft.evaluation.outputs import is_page
from weft.evaluation.protocols.catalogue import load_protocol, protocols
from weft.evaluation.report import report, write_report
from weft.evaluation.report_labels import PLOT, box, overlap, positions
from weft.evaluation.report_pictures import INK, bars, time_and_worth
from weft.evaluation.report_rows import worth_of
from weft.evaluation.report_tables import blended
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
    """The cells of all tables and how they are set, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.kinds: list[list[str]] = []
        self.styles: list[list[list[str]]] = []
        self.bold: list[str] = []
        self.fetched: list[str] = []
        self._cell = self._bold = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        self._cell = self._cell or tag in ("td", "th")
        self._bold = tag == "b"
        if tag == "table":
            for each in (self.tables, self.kinds, self.styles):
                each.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.kinds[-1].append(dict(attrs).get("class") or "")
            self.styles[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.styles[-1][-1].append(dict(attrs).get("style") or "")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._bold = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data
        if self._bold:
            self.bold.append(f"{self.tables[-1][-1][0]} {data}")


def said(text: str) -> str:
    """The page's text as a reader sees it, without scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)


def test_the_table_is_ranked_and_says_what_the_results_say() -> None:
    page = Page(report([results()], ["r"]))
    assert page.tables[0] == [
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
    assert text.count("Plotly.newPlot(") == 4


def test_results_of_the_same_tasks_share_a_table() -> None:
    other = Results(TASKS, [row("ties", 0.5, 30.0), row("base", 0.2, 40.0)])
    rows = Page(report([results(), other], ["one", "two"])).tables[0]
    assert [cells[0] for cells in rows] == ["model", "experts", "<ties>, tuned", "ties", "ties (two)", "base"]


def test_results_of_other_tasks_have_their_own() -> None:
    other = Results(TASKS[:1], [row("ties", 0.5, 30.0)])
    text = report([results(), other], ["one", "two"])
    assert "<h1>Results</h1>" in text
    assert text.count('<table class="leaderboard">') == 2


def test_nothing_to_show_is_told() -> None:
    with pytest.raises(InputError, match="the results have no rows"):
        report([Results([], [])], ["r"])


def scored(name: str, accuracy: float, perplexity: float, **facts: object) -> Row:
    """A row without experts to compare with."""
    scores = {"colour": Score(accuracy, {}), "text": Score(perplexity, {})}
    return Row(name, scores, facts=facts)


def test_metrics_that_cannot_be_averaged_have_no_means() -> None:
    text = report([Results(TASKS, [scored("a", 0.5, 40.0), scored("b", 0.7, 50.0)])], ["r"])
    assert "<h2>Means</h2>" not in text
    assert "There is no mean: of some of these metrics more is better, of others less." in text
    assert Page(text).tables[0] == [
        ["model", "colouraccuracy", "textperplexity"], ["a", "0.500", "40.000"], ["b", "0.700", "50.000"],
    ]  # fmt: skip


def test_each_column_has_its_own_colours_and_darker_is_better() -> None:
    """A perplexity of hundreds does not make accuracies pale; the lower one is the dark one."""
    rows = [scored("a", 0.5, 400.0), scored("b", 0.7, 500.0), scored("c", 0.6, 450.0)]
    page = Page(report([Results(TASKS, rows)], ["r"]))
    worst, middle, best = "background:#f3f6f9", "background:#b3d6ed", "background:#56a6d8"
    grounds = [line[1:] for line in page.styles[1][1:]]
    assert page.tables[1][1:] == [["a", "0.500", "400"], ["b", "0.700", "500"], ["c", "0.600", "450"]]
    assert grounds == [[worst, best], [best, worst], [middle, middle]]


def test_shares_are_coloured_higher_is_better_whatever_the_metric() -> None:
    page = Page(report([results()], ["r"]))
    assert page.styles[1][1][1:] == ["background:#56a6d8"] * 2
    assert page.tables[1][1] == ["experts", "1.000", "1.000"]


def contrast(*colours: tuple[int, int, int]) -> float:
    """The ratio of contrast of WCAG 2.2."""
    linear = [
        [v / 12.92 if (v := part / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for part in c] for c in colours
    ]
    darker, lighter = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("part", [k / 100 for k in range(101)])
def test_numbers_are_legible_on_every_ground(part: float) -> None:
    """What WCAG asks of text of this size: a contrast of 4.5."""
    assert round(contrast((0, 0, 0), (255, 255, 255)), 6) == 21.0
    red, green, blue = bytes.fromhex(INK[1:])
    assert contrast(blended(part), (red, green, blue)) >= 4.5


def test_bold_is_the_best_merge_in_every_column_of_numbers() -> None:
    """The base and the experts are as good or better, and are not bold; nor is a merge without a rival."""
    rows = [
        Row("roberta", row("", 0.72, 9.0).scores, facts={"role": "base"}),
        row("ties", 0.72, 20.0), row("lin", 0.6, 15.0),
        row("experts", 0.8, 8.0, "experts"), row("ensemble", 0.72, 15.0, "ensemble"),
    ]  # fmt: skip
    page = Page(report([Results(TASKS, rows)], ["r"]))
    assert sorted(page.bold) == ["lin 0.708", "lin 15.000", "ties 0.720"]
    kinds = dict(zip((line[0] for line in page.tables[0]), page.kinds[0], strict=True))
    assert {name for name, kind in kinds.items() if kind == "reference"} == {"experts", "ensemble", "roberta"}
    alone = Page(report([Results(TASKS, [row("base", 0.72, 15.0), row("lin", 0.72, 15.0)])], ["r"]))
    assert alone.bold == []


def test_a_base_under_another_name_is_still_the_base() -> None:
    other = Results(TASKS, [row("base", 0.1, 50.0)])
    page = Page(report([results(), other], ["one", "two"]))
    kinds = dict(zip((line[0] for line in page.tables[0]), page.kinds[0], strict=True))
    assert kinds["base (two)"] == kinds["base"] == "reference"
    assert kinds["ties"] == ""


def seeded() -> Results:
    rows = [
        row("base", 0.2, 40.0, seeds=[0, 1], apart=0.0),
        row("ties", 0.6, 20.0, seeds=[0, 1], apart=0.0123, settings={}, variant="untuned", merge_seconds=0.5),
        row("ties, tuned", 0.7, 18.0, seeds=[0, 1], apart=0.02, settings={"density": 0.1}, variant="tuned",
            chosen="density=0.1 (seed 0); defaults (seed 1)", merge_seconds=60.0),
        row("dare, tuned", 0.65, 18.0, seeds=[1], settings={"scale": 0.3}, variant="tuned", merge_seconds=300),
    ]  # fmt: skip
    curves = [Curve("Sensitivity", "scale", "mean", [Series("ties", [0.1, 0.5], [0.4, 0.6])])]
    return Results(TASKS, rows, title="seeds", curves=curves, facts={"seeds": [0, 1], "curves of": [0]})


def test_seeds_are_told() -> None:
    """Which a row is of if not of all, how far they lie apart, and what each chose."""
    text = report([seeded()], ["r"])
    cells = {line[0]: line for line in Page(text).tables[0]}
    assert cells["ties"][1] == "0.625 ± 0.012"
    assert cells["ties, tuned"][4] == "density=0.1 (seed 0); defaults (seed 1)"
    assert cells["dare, tuned (seed 1)"][1::3] == ["0.684", "scale=0.3"]
    assert cells["base"][1] == "0.250"
    for told in ("means over seeds 0, 1", "± is the standard deviation between seeds", "Of seed 0 alone."):
        assert told in text


def test_bars_have_a_legend_of_what_their_colours_mean() -> None:
    worth = worth_of(seeded())
    assert worth is not None
    found = {trace.name: (trace.marker.color, list(trace.y)) for trace in bars(seeded(), worth).data}
    assert found == {
        "merged, tuned settings": ("#0072b2", [2, 3]),
        "merged, default settings": ("#8cbfe0", [1]),
        "to compare with": ("#b6bec6", [0]),
    }


def test_time_has_a_logarithmic_axis() -> None:
    worth = worth_of(seeded())
    assert worth is not None
    figure = time_and_worth(seeded(), worth)
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["1", "3", "10", "30", "100", "300"]
    assert [list(trace.x) for trace in figure.data] == [[60.0, 300.0], [0.5]]
    assert {name for trace in figure.data for name in trace.text} == {"ties", "ties, tuned", "dare, tuned (seed 1)"}


def test_a_merge_that_took_no_time_has_a_place_on_it() -> None:
    rows = [row("a", 0.5, 20.0, merge_seconds=0.0), row("b", 0.6, 20.0, merge_seconds=0)]
    known = Results(TASKS, rows)
    worth = worth_of(known)
    assert worth is not None
    figure = time_and_worth(known, worth)
    assert list(figure.data[0].x) == [0.001, 0.001]


def test_names_beside_points_cover_nothing() -> None:
    draw = Random(5)
    points = [(draw.random(), draw.random() ** 3) for _ in range(60)]
    names = [f"method_{k}" * draw.randint(1, 3) for k in range(60)]
    places = positions(points, names)
    centres = [(x * PLOT[0], (1 - y) * PLOT[1]) for x, y in points]
    boxes = [box(p, *c, n) for p, c, n in zip(places, centres, names, strict=True) if p]
    assert 10 < len(boxes) < 60
    assert not any(overlap(a, b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert not any(a[0] < x < a[2] and a[1] < y < a[3] for a in boxes for x, y in centres)
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= PLOT[0] and a[3] <= PLOT[1] for a in boxes)


def with_papers(**changes: object) -> Results:
    told = {"method": "TIES", "setting": "<tuned>", "checkpoints": "theirs", "tasks": {"colour": 61.5}, "mark": "repo"}
    told |= {"mean": 70.0, "share": None, "source": "a paper"}
    facts = {
        "published": [{**told, **changes}],
        "examples": 50,
        "unconfirmed": ["text: a guess"],
        "checkpoints": "ours",
    }
    rows = [row("roberta", 0.3, 30.0, role="model"), row("ties", 0.5, 20.0, method="ties", parameters={"density": 0.2})]
    return Results(TASKS, rows, title="P", facts=facts)


def test_what_papers_report_stands_beneath_ours_in_the_same_units() -> None:
    text = report([with_papers()], ["r"])
    assert Page(text).tables[0] == [
        ["model", "of experts", "mean", "colouraccuracy", "textperplexity", "settings", "checkpoints", "source"],
        ["ties", "0.562", "", "0.500", "20.000", "density=0.2", "ours", "measured here"],
        ["roberta", "0.354", "", "0.300", "30.000", "", "ours", "measured here"],
        ["TIES", "", "0.700", "0.615", "", "<tuned>", "theirs", "a paper [repo]"],
    ]
    for told in ("Only 50 examples of each task were asked", "are no target", "Unconfirmed: text: a guess"):
        assert told in text


@pytest.mark.parametrize("name", protocols())
def test_every_protocol_has_its_papers_on_the_page(name: str) -> None:
    known = load_protocol(name)
    columns = [Column(task.name, "classification", "accuracy") for task in known.tasks]
    ours = Row("ties", {task.name: Score(0.5, {}, 0.6) for task in known.tasks}, facts={"method": "ties"})
    told = [row.model_dump(exclude_none=True) for row in known.published]
    page = Page(report([Results(columns, [ours], facts={"published": told})], [name]))
    assert len(page.tables[0]) == 2 + len(known.published)
    means = {line[2] for line in page.tables[0][2:]}
    assert means == {f"{row.mean / 100:.3f}" if row.mean is not None else "" for row in known.published}


def test_papers_of_several_results_are_told_once() -> None:
    text = report([with_papers(), with_papers(mean=71.0), with_papers()], ["one", "two", "three"])
    assert [line[2] for line in Page(text).tables[0] if line[0].startswith("TIES")] == ["0.700", "0.710"]


@pytest.mark.parametrize("damage", [{"mean": "much"}, {"source": None}, {"mark": "hearsay"}])
def test_published_rows_that_are_none_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(InputError, match="P: its published rows: 0 "):
        report([with_papers(**damage)], ["r"])


def test_one_task_is_ranked_by_its_score() -> None:
    rows = [Row("a", {"text": Score(40.0, {})}), Row("b", {"text": Score(20.0, {})}), Row("c", {})]
    text = report([Results(TASKS[1:], rows)], ["r"])
    assert [line[0] for line in Page(text).tables[0]] == ["model", "b", "a", "c"]
    assert "<h2>Scores</h2>" in text
    assert "<h2>By task</h2>" not in text


def test_shares_and_means_are_not_ranked_together() -> None:
    """A share of 0.9 is no more than a mean of 0.7 where not all models have both."""
    tasks = TASKS[:1]
    known = Row("shared", {"colour": Score(0.5, {}, 0.9)})
    text = report([Results(tasks, [known, Row("plain", {"colour": Score(0.7, {})})])], ["r"])
    assert [line[0] for line in Page(text).tables[0]] == ["model", "plain", "shared"]


def test_names_stay_in_sight_and_words_wrap() -> None:
    text = report([results()], ["r"])
    style = text[: text.index("</style>")]
    assert re.search(r"td:first-child \{[^}]*position: sticky; left: 0;", style)
    assert re.search(r"td.words \{[^}]*white-space: normal;[^}]*max-width", style)
    for table in re.findall(r".{0,30}<table", said(text)):
        assert table.endswith('<div class="scroll"><table')


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_command(tmp_path: Path) -> None:
    results().save(tmp_path / "r.json")
    for _ in range(2):  # an earlier page is replaced
        done = run(tmp_path / "r.json", "-o", tmp_path / "page.html")
        assert done.exit_code == 0, done.output
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    done = run(tmp_path / "none.json", "-o", tmp_path / "other.html")
    assert done.exit_code == 2
    assert "No such file" in done.output


def test_the_command_replaces_nothing_but_pages(tmp_path: Path) -> None:
    results().save(tmp_path / "r.json")
    (tmp_path / "w.safetensors").write_bytes(b"\xff\x00weights")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for words, told in {
        ("-o", tmp_path / "r.json"): "r.json is an input",
        ("-o", tmp_path / "r.json", "--overwrite"): "r.json is an input",
        ("-o", tmp_path / "w.safetensors"): "exists and is not a page that weft report wrote",
        ("-o", tmp_path / "no/deep/x.html"): "no/deep: no such folder",
    }.items():
        done = run(tmp_path / "r.json", *words)
        assert done.exit_code == 2
        assert told in "".join(done.output.split("\n")).replace("  ", " "), done.output
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run(tmp_path / "r.json", "-o", tmp_path / "w.safetensors", "--overwrite").exit_code == 0
    assert is_page(tmp_path / "w.safetensors")


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
    assert len(drawn) >= 4
