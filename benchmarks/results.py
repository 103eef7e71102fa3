"""What was measured, as a file that is kept: every time, every peak, and the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measuring import Result

from kernels import Cost, Steps

_PACKAGES = ("weft", "numpy", "numba", "llvmlite", "torch", "safetensors")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """What was measured of one command; see `Contender`.

    Attributes:
        compiles: whether it said that it compiles.
        floors: for each run the seconds of its floor at that time.
    """

    name: str
    seconds: Sequence[float]
    peak: int
    floor: str = ""
    budget: int = 0
    reads: int = 0
    compiles: bool = False
    floors: Sequence[float] = ()

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Section:
    """One workload.

    Attributes:
        title: what it is.
        rows: what was measured.
        about: versions of what takes part, where that is not only Weft.
    """

    title: str
    rows: Sequence[Row]
    about: str = ""

    def row(self, name: str) -> Row | None:
        """The command of this name, if it took part."""
        return next((row for row in self.rows if row.name == name), None)

    def ratios(self, name: str) -> list[float]:
        """How many times its floor a command took, in each run; nothing if it has none."""
        row = self.row(name)
        if row is None or not row.floor:
            return []
        return [taken / floor for taken, floor in zip(row.seconds, row.floors, strict=True)]

    def ratio(self, name: str) -> float | None:
        """The median of these."""
        ratios = self.ratios(name)
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Results:
    """Everything.

    Attributes:
        machine: what it was measured on, and with.
        sections: by the workload's key.
        costs: of the compiled loops.
        steps: of the folds.
    """

    machine: Mapping[str, Any]
    sections: Mapping[str, Section] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    steps: Steps | None = None

    def joined(self, newer: Results) -> Results:
        """These, with what is newer in place of the old; nothing of these if they are of another machine."""
        if any(self.machine.get(fact) != newer.machine.get(fact) for fact in ("processor", "cores", "memory")):
            return newer
        sections = {**self.sections, **newer.sections}
        return replace(newer, sections=sections, costs=newer.costs or self.costs, steps=newer.steps or self.steps)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Results:
    """From JSON; nothing measured, on no machine, if there is no file."""
    if not path.exists():
        return Results({})
    found = json.loads(path.read_text())
    sections = {
        key: Section(section["title"], [Row(**row) for row in section["rows"]], section["about"])
        for key, section in found["sections"].items()
    }
    costs = [Cost(**cost) for cost in found["costs"]]
    return Results(found["machine"], sections, costs, Steps(**found["steps"]) if found["steps"] else None)


def section(title: str, results: Sequence[Result], about: str = "") -> Section:
    """What is kept of a workload."""
    return Section(title, [_row(result) for result in results if result.seconds], about)


def _row(result: Result) -> Row:
    asked = result.contender
    seconds = [round(taken, 3) for taken in result.seconds]
    compiles = "compil" in result.said.lower()
    floors = [round(taken, 3) for taken in result.floors]
    return Row(asked.name, seconds, result.peak, asked.floor, asked.budget, asked.reads, compiles, floors)


def machine() -> dict[str, Any]:
    """What is measured on, and with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict((part.strip() for part in line.split(":", 1)) for line in lines if ":" in line)
    name = facts.get("model name", platform.machine())
    return f"{name}, family {facts['cpu family']}, model {facts['model']}" if "cpu family" in facts else name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _commit() -> str:
    asked = ["git", "-C", str(_HERE), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
