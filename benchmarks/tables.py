"""Results as tables: on a terminal, and in the documentation between markers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from results import Results, Row, Section
from rich.table import Table as Shown
from targets import FORMAT_WORK, judged, per_byte

MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Words and numbers in rows; all columns but the first hold numbers, unless said otherwise.

    Attributes:
        header: of each column.
        rows: as long as the header.
        texts: positions of columns that hold words.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = (0,)

    def markdown(self) -> str:
        """For the documentation."""
        rule = ["---" if k in self.texts else "---:" for k in range(len(self.header))]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows))

    def shown(self) -> Shown:
        """For a terminal."""
        table = Shown(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for k, name in enumerate(self.header):
            table.add_column(name, justify="left" if k in self.texts else "right")
        for row in self.rows:
            table.add_row(*row)
        return table


def targets_table(results: Results) -> Table:
    """Every target, what was measured, and whether it is met."""
    rows = [(each.work, each.target, each.measured, "met" if each.met else "**missed**") for each in judged(results)]
    return Table(("", "target", "measured", ""), rows, (0, 1, 2, 3))


def section_table(section: Section) -> Table:
    """Every command of a workload."""
    return Table(
        ("", "seconds (median)", "min - max", "x floor", "min - max", "peak MB"),
        [_line(section, row) for row in section.rows],
    )


def _line(section: Section, row: Row) -> tuple[str, ...]:
    ratio, ratios = section.ratio(row.name), section.ratios(row.name)
    span = _span(row.seconds) or "one run"
    return (
        row.name,
        f"{row.median:.2f}",
        span,
        f"{ratio:.2f}" if ratio else "",
        _span(ratios),
        f"{row.peak / 1e6:,.0f}",
    )


def _span(numbers: Sequence[float]) -> str:
    """The least and the most of several."""
    return f"{min(numbers):.2f} - {max(numbers):.2f}" if len(numbers) > 1 else ""


def formats_table(formats: Section) -> Table:
    """Seconds per gigabyte of input, and how they compare with bfloat16."""
    variants = list(dict.fromkeys(row.name.partition(":")[0] for row in formats.rows))
    rows = [(variant, *_format_cells(formats, variant)) for variant in variants]
    header = ["", "input GB", "floor"]
    for name in FORMAT_WORK:
        header += [f"{name}, s per GB", "x bfloat16"]
    return Table(header, rows)


def _format_cells(formats: Section, variant: str) -> Iterator[str]:
    floor = next(row for row in formats.rows if row.name.startswith(f"{variant}: floor"))
    yield f"{floor.reads / 1e9:.2f}"
    yield f"{floor.median / floor.reads * 1e9:.2f}"
    for name in FORMAT_WORK:
        row = formats.row(f"{variant}: {name}")
        assert row is not None
        yield f"{row.median / row.reads * 1e9:.2f}"
        yield f"{per_byte(formats, variant, name):.2f}"


def kernels_table(results: Results) -> Table:
    """Nanoseconds per element and input, by method and number of models."""
    methods = list(dict.fromkeys(cost.method for cost in results.costs))
    known = {(cost.method, cost.models): cost for cost in results.costs}
    counts = list(dict.fromkeys(cost.models for cost in results.costs))
    rows = []
    for count in counts:
        own = [known[method, count] for method in methods]
        rows.append((f"{count} models", *(f"{value:.2f}" for cost in own for value in (cost.cached, cost.tile))))
    header = [text for method in methods for text in (f"{method}, in cache", "engine's tiles")]
    return Table(("", *header), rows)


def machine_text(results: Results) -> str:
    """One paragraph: what it was measured on, and with."""
    facts = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    memory = f"{facts['memory'] / 2**30:.0f} GiB of memory"
    return (
        f"Measured on {facts['date']} at commit {facts['commit']}: {facts['processor']}, {facts['cores']} cores, "
        f"{memory}, {facts['system']}, Python {facts['python']}, {versions}. Load when it began: {facts['load']}."
    )


_TITLES_ONLY = "Not measured yet: `make bench`."


def figures(results: Results, name: str) -> str:
    """What belongs between the markers of this name, as Markdown.

    Raises:
        KeyError: if there is nothing of this name.
    """
    if name in ("targets", "machine", "kernels"):
        if not results.machine or (name == "kernels" and not results.costs):
            return _TITLES_ONLY
        return {"targets": _targets_text, "machine": machine_text, "kernels": _kernels_text}[name](results)
    section = results.sections.get(name)
    if section is None:
        return _TITLES_ONLY if name != "peers" else "Not measured yet: `make peers`."
    table = formats_table(section) if name == "formats" else section_table(section)
    return "\n\n".join(filter(None, (f"{section.title}.", table.markdown(), section.about)))


def _targets_text(results: Results) -> str:
    return targets_table(results).markdown()


def _kernels_text(results: Results) -> str:
    text = kernels_table(results).markdown()
    if results.steps:
        rank, total = results.steps.rank, results.steps.sum
        text += f"\n\nA round of the search for the trim threshold takes {rank:.2f} ns per element, a sum {total:.2f}."
    return text


def filled(page: str, results: Results) -> str:
    """A page with the newest figures between its markers."""
    return MARKED.sub(lambda found: f"{found[1]}{figures(results, found[2])}\n{found[3]}", page)
