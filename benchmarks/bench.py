"""Measure Weft: seconds as ratios to a floor measured in the same run, and memory.

Writes synthetic checkpoints, merges them by the command line in fresh processes, in turn with the floor, several rounds
with a warm page cache, and removes the checkpoints again. Figures go to docs/performance.json, which keeps those of
workloads that are not measured this time; tables and the plot of docs/performance.md are made from it.

Use: python benchmarks/bench.py [--quick] [--only llama,kernels] [--rounds N] [--peers MERGEKIT_COMMAND]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from measuring import measure
from results import Results, Section, load, machine, section
from rich.console import Console
from slide import draw
from tables import filled, formats_table, kernels_table, section_table, targets_table
from workloads import Workload, peers, workloads

from kernels import MODELS, costs, steps

ROOT = Path(__file__).parents[1]
KERNELS = "kernels"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What a person may choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the size, two rounds; figures go beside the data"
    )
    parser.add_argument("--rounds", type=int, help="how often each command is measured")
    parser.add_argument("--only", help="workloads, with commas between")
    parser.add_argument(
        "--peers", metavar="COMMAND", help="mergekit-yaml: measure only Weft beside it and a torch loop"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/bench", help="where checkpoints are written")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/performance.md", help="the page with the tables")
    parser.add_argument("--draw", action="store_true", help="measure nothing, only make tables and plot again")
    chosen = parser.parse_args(words)
    if not chosen.page.is_file():
        parser.error(f"--page: no such file: {chosen.page}")
    chosen.folder = chosen.folder.resolve() / ("quick" if chosen.quick else "full")
    return chosen


def main() -> None:
    """Measure, keep, tell."""
    chosen = arguments()
    console = Console(width=None if Console().is_terminal else 120)
    began = time.monotonic()
    target = (chosen.folder / "performance.md" if chosen.quick else chosen.page).with_suffix(".json")
    results = load(target)
    for newer in () if chosen.draw else measured(chosen, console):
        results = results.joined(newer)
        results.save(target)  # what is measured is not lost to an interrupt
    small = ", which quick figures say nothing about: start-up outweighs such small work" if chosen.quick else ""
    console.print(f"\n[bold]targets[/]{small}", targets_table(results).shown(), sep="\n")
    publish(results, target, None if chosen.quick else chosen.page)
    console.print(
        f"\n{time.monotonic() - began:.0f} s. Figures: {target}, {target.with_suffix('.png')}", soft_wrap=True
    )


def measured(chosen: argparse.Namespace, console: Console) -> Iterator[Results]:
    """Results of one workload after the other."""
    facts = machine()
    for workload in asked(chosen):
        console.print(f"\n[bold]{workload.title}[/]")
        found = Results(facts, {workload.key: one(workload, chosen, console)})
        table = formats_table if workload.key == "formats" else section_table
        console.print(table(found.sections[workload.key]).shown())
        yield found
    if not chosen.peers and KERNELS in (chosen.only or KERNELS).split(","):
        console.print("\n[bold]compiled loops, ns per element and input, one core[/]")
        found = Results(facts, {}, costs((2, 8, 24) if chosen.quick else MODELS), steps())
        console.print(kernels_table(found).shown())
        yield found


def asked(chosen: argparse.Namespace) -> list[Workload]:
    """The workloads that a person wants.

    Raises:
        SystemExit: for one that does not exist.
    """
    if chosen.peers:
        return [peers(chosen.quick, chosen.peers)]
    known = {workload.key: workload for workload in workloads(chosen.quick)}
    names = chosen.only.split(",") if chosen.only else [*known]
    strangers = {*names} - {*known, KERNELS}
    if strangers:
        raise SystemExit(f"--only: no workload is called {strangers.pop()!r}; there are {', '.join([*known, KERNELS])}")
    return [known[name] for name in names if name in known]


def one(workload: Workload, chosen: argparse.Namespace, console: Console) -> Section:
    """Build, measure, remove."""
    folder = chosen.folder / workload.key
    rounds = chosen.rounds or (2 if chosen.quick else workload.rounds)
    try:
        console.print("[dim]writing checkpoints[/]")
        workload.build(folder)
        found = measure(workload.contenders(folder), rounds, lambda text: console.print(f"[dim]{text}[/]"))
    finally:
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return section(workload.title, found, about(chosen.peers) if chosen.peers else "")


def about(mergekit: str) -> str:
    """Versions in the environment of the peer's command."""
    python = Path(mergekit).absolute().with_name("python")
    program = 'from importlib.metadata import version as v; print(f\'mergekit {v("mergekit")}, torch {v("torch")}\')'
    told = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    return f"The peer is {told}, run as a program in an environment of its own. Neither it nor the torch loop syncs."


def publish(results: Results, target: Path, page: Path | None) -> None:
    """Draw the plot beside the figures, and fill the page."""
    draw(results, target.with_suffix(".png"))
    if page:
        page.write_text(filled(page.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    main()
