"""Runs what tests reliability at length and puts its figures into the documentation.

    python benchmarks/reliability.py                      everything, for hours
    python benchmarks/reliability.py calls --step 5       every fifth of the kills, in a fifth of the time
    python benchmarks/reliability.py fuzz soak --minutes 5
    python benchmarks/reliability.py draw                 nothing anew: only fills the page

Every run replaces the figures of its part in `docs/reliability.json`, from which the page's numbers come.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results import machine
from tables import MARKED, Table

ROOT = Path(__file__).parents[1]
FIGURES, PAGE = ROOT / "docs/reliability.json", ROOT / "docs/reliability.md"

PARTS = {
    "calls": "pytest -m long tests/faults/test_kills.py -k killed_at_every_call",
    "twice": "pytest -m long tests/faults/test_kills.py -k twice",
    "clock": "pytest -m long tests/faults/test_kills.py -k millisecond",
    "command": "pytest -m long tests/faults/test_command.py",
    "corruptions": "pytest -m long tests/inspection/test_corruptions.py",
    "attacks": "pytest tests/hostile --ignore=tests/hostile/test_fuzz.py",
    "fuzz": "tests.hostile.fuzz --minutes {minutes}",
    "soak": "tests.long.soak --minutes {minutes}",
}
"""What is run, as a module of Python with its arguments."""

KINDS = {
    "before": "killed before a call",
    "after": "killed after a call",
    "half": "killed halfway through a write",
    "power": "power failed after a call",
    "full": "disk full from a call on",
    "ENOSPC": "a call failed: disk full",
    "EIO": "a call failed: input/output error",
    "clock": "killed at a time",
}
_UNKNOWN = "Not measured yet: `make reliability`."


@dataclass(frozen=True)
class Figures:
    """What came of one part.

    Attributes:
        command: what was run.
        commit, date: of what, and when.
        machine: on what.
        seconds: how long it took.
        passed: tests that passed, where it is tests.
        records: what it noted.
    """

    command: str
    commit: str
    date: str
    machine: str
    seconds: int
    passed: int
    records: Sequence[Mapping[str, Any]]


def main() -> None:
    chosen = _parser().parse_args()
    for name in [part for part in chosen.parts or PARTS if part != "draw"]:
        part = measured(PARTS[name].format(minutes=chosen.minutes), chosen.step)
        every = {**load(), name: part}
        FIGURES.write_text(json.dumps({key: asdict(one) for key, one in every.items()}, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text("utf-8"), load()), "utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "draw", []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="of fuzzing, and of soaking")
    parser.add_argument("--step", type=int, default=1, help="strike at every so many; odd, and no multiple of 7")
    return parser


def load() -> dict[str, Figures]:
    """What was measured so far."""
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return {name: Figures(**part) for name, part in found.items()}


def measured(command: str, step: int) -> Figures:
    """Run one part.

    Raises:
        SystemExit: if it failed; what it said was printed.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "figures"
        notes.touch()
        environment = {**os.environ, "WEFT_FIGURES": str(notes), "WEFT_STEP": str(step)}
        program = [sys.executable, "-m", *command.split()]
        with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:
            lines = [line for line in running.stdout or () if print(line, end="", flush=True) is None]
        if running.returncode:
            raise SystemExit(f"{command}: failed; the figures are left as they were")
        records = [json.loads(line) for line in notes.read_text().splitlines()]
    facts = machine()
    told = f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}"
    asked = f"{f'WEFT_STEP={step} ' if step != 1 else ''}python -m {command}"
    seconds = round(time.monotonic() - began)
    return Figures(asked, facts["commit"], facts["date"], told, seconds, _passed(lines[-1:]), records)


def _passed(last: Sequence[str]) -> int:
    """From pytest's last line: `=== 3 passed, 2 deselected in 0.10s ===`."""
    found = re.search(r"(\d+) passed", " ".join(last))
    return int(found[1]) if found else 0


def filled(page: str, every: Mapping[str, Figures]) -> str:
    """A page with the newest figures between its markers."""
    return MARKED.sub(lambda found: f"{found[1]}{told(every, found[2])}\n{found[3]}", page)


def told(every: Mapping[str, Figures], name: str) -> str:
    """What belongs between the markers of this name, as Markdown."""
    if name == "summary":
        return summary_table(every).markdown()
    part = every.get(name)
    if part is None:
        return _UNKNOWN
    return f"{_TABLES[name](part).markdown()}\n\n{_origin(part)}"


def _origin(part: Figures) -> str:
    return f"`{part.command}`: {_duration(part.seconds)} on {part.date}, commit {part.commit}, {part.machine}."


def _duration(seconds: int) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds} seconds"


def kills(part: Figures) -> Table:
    """Strikes by kind and variant; all of them were survived, else there would be no figures."""
    variants = list(dict.fromkeys(record["variant"] for record in part.records))
    counts = Counter[tuple[str, str]]()
    for record in part.records:
        for kind, count in record["kinds"].items():
            counts[kind, record["variant"]] += count
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    rows = [(_named(k), *(f"{counts[k, v]:,}" for v in variants), f"{_sum(counts, k):,}") for k in kinds]
    return Table(("", *variants, "together"), rows)


def _named(kind: str) -> str:
    kind, comma, more = kind.partition(",")
    return KINDS[kind] + comma + more


def _sum(counts: Counter[tuple[str, str]], kind: str) -> int:
    return sum(count for (each, _), count in counts.items() if each == kind)


def fuzz(part: Figures) -> Table:
    """Inputs by reader."""
    readers = part.records[0]["targets"]
    rows = [
        (
            name,
            *(f"{found[key]:,}" for key in ("inputs", "accepted", "refused", "errors")),
            f"{found['longest_seconds']} s",
        )
        for name, found in readers.items()
    ]
    return Table(("reader", "inputs", "accepted", "refused", "broke the rule", "longest"), rows)


def corruptions(part: Figures) -> Table:
    """Planted and found, by kind."""
    rows = [(record["kind"], f"{record['found']:,}") for record in part.records]
    return Table(("planted", "found"), rows)


def commands(part: Figures) -> Table:
    """Whole commands."""
    return Table(("", "number"), [(name, _noted(part, name)) for name in ("killed", "interrupted")])


def attacks(part: Figures) -> Table:
    """Written by hand."""
    return Table(("", "number"), [("tests that passed", f"{part.passed:,}")])


def soak(part: Figures) -> Table:
    """Cases by method."""
    (found,) = part.records
    rows = [(f"merges by `{name}`", f"{count:,}") for name, count in sorted(found["methods"].items())]
    if "steps" in found:
        rows.append(("of these with steps before or after the method", f"{found['steps']:,}"))
    rows.append(("elements compared", f"{found['elements']:,}"))
    if "alone" in found:
        rows.append(("of these near a discontinuity or in an ill-conditioned matrix", f"{found['forked']:,}"))
        rows.append(("of these compared with the method's formula alone", f"{found['alone']:,}"))
    rows.append(("cases that did not hold", f"{found['failed']:,}"))
    return Table(("", "number"), rows)


_TABLES: Mapping[str, Callable[[Figures], Table]] = {
    "calls": kills,
    "twice": kills,
    "clock": kills,
    "command": commands,
    "corruptions": corruptions,
    "attacks": attacks,
    "fuzz": fuzz,
    "soak": soak,
}


def strikes(part: Figures, *kinds: str) -> int:
    """How many of some kinds there were; all, if none are named."""
    every = (item for record in part.records for item in record["kinds"].items())
    return sum(count for kind, count in every if not kinds or kind.split(",")[0] in kinds)


def summary_table(every: Mapping[str, Figures]) -> Table:
    """The numbers that one asks for first."""
    killed = [every[name] for name in ("calls", "twice", "clock") if name in every]
    rows = [
        ("merges killed by SIGKILL, at calls of the system", _count(killed, "before", "after", "half")),
        ("merges killed by SIGKILL, by the clock", _count(killed, "clock")),
        ("power failures simulated", _count(killed, "power")),
        ("calls that failed (disk full, input/output error)", _count(killed, "ENOSPC", "EIO", "full")),
        ("whole commands killed, on models of 200 MB", _noted(every.get("command"), "killed")),
        ("corruptions planted in outputs, all found by `weft verify`", _noted(every.get("corruptions"), "found")),
        (
            "tests of hostile files and recipes, written by hand",
            f"{every['attacks'].passed:,}" if "attacks" in every else "-",
        ),
        ("inputs of the fuzzer", _fuzzed(every.get("fuzz"))),
        ("elements compared with the float64 references", _noted(every.get("soak"), "elements")),
    ]
    return Table(("", "number"), rows)


def _count(parts: Sequence[Figures], *kinds: str) -> str:
    return f"{sum(strikes(part, *kinds) for part in parts):,}" if parts else "-"


def _noted(part: Figures | None, key: str) -> str:
    return f"{sum(record.get(key, 0) for record in part.records):,}" if part else "-"


def _fuzzed(part: Figures | None) -> str:
    return f"{sum(found['inputs'] for found in part.records[0]['targets'].values()):,}" if part else "-"


if __name__ == "__main__":
    main()
