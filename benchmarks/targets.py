"""The targets, and whether what was measured meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from results import Results, Row, Section

from kernels import Cost


@dataclass(frozen=True)
class Ratio:
    """A merge that may take so many times the floor.

    Attributes:
        of: what is merged.
        work: how.
        workload: its key.
        command: its name there.
        limit: in floors.
    """

    of: str
    work: str
    workload: str
    command: str
    limit: float


_LARGE, _MANY = "0.5 billion parameters", "30,000 small tensors"
RATIOS = (
    Ratio(_LARGE, "linear", "llama", "weft linear", 1.3),
    Ratio(_LARGE, "task arithmetic", "llama", "weft task_arithmetic", 1.3),
    Ratio(_LARGE, "TIES, scope: tensor", "llama", "weft ties, scope: tensor", 2.0),
    Ratio(_LARGE, "TIES, scope: model", "llama", "weft ties, scope: model", 3.0),
    Ratio("Fishers in float32", "Fisher", "fisher", "weft fisher", 1.3),
    Ratio(_MANY, "task arithmetic", "experts", "weft task_arithmetic", 2.0),
    Ratio(_MANY, "TIES, scope: tensor", "experts", "weft ties, scope: tensor", 2.0),
    Ratio(_MANY, "TIES, scope: model", "experts", "weft ties, scope: model", 3.0),
)
FASTER_THAN_MERGEKIT = 50
FLAT, GRACEFUL = 1.5, 3.0
BESIDE_BUDGET = 350e6
PER_BYTE = {"float16": 1.5, "float32": 1.5, "mixed": 3.0, "float8": 3.0}
PLANNING, TINY, FIRST = 3.0, 1.2, 10.0


@dataclass(frozen=True)
class Judged:
    """One target.

    Attributes:
        work: of what.
        target: in words.
        measured: in words.
        met: whether it is met.
    """

    work: str
    target: str
    measured: str
    met: bool


def judged(results: Results) -> list[Judged]:
    """Every target of which something was measured."""
    return [
        *_ratios(results),
        *_mergekit(results.sections.get("peers")),
        *_compute(results),
        *_memory(results),
        *_formats(results.sections.get("formats")),
        *_planning(results.sections.get("experts")),
        *_tiny(results.sections.get("tiny")),
    ]


def _ratios(results: Results) -> Iterator[Judged]:
    for target in RATIOS:
        section = results.sections.get(target.workload)
        ratio = section.ratio(target.command) if section else None
        if ratio is not None:
            allowed = f"at most {target.limit} x the floor"
            yield Judged(f"{target.of}: {target.work}", allowed, f"{ratio:.2f} x", ratio <= target.limit)


def _mergekit(peers: Section | None) -> Iterator[Judged]:
    theirs = peers.row("mergekit ties, scope: tensor") if peers else None
    ours = peers.row("weft ties, scope: tensor") if peers else None
    if theirs and ours:
        times = theirs.median / ours.median
        target = f"at least {FASTER_THAN_MERGEKIT} x as fast as mergekit"
        yield Judged(f"{_LARGE}: TIES, scope: tensor", target, f"{times:.0f} x", times >= FASTER_THAN_MERGEKIT)


def _compute(results: Results) -> Iterator[Judged]:
    methods = {cost.method for cost in results.costs}
    most = max((cost.models for cost in results.costs), default=0)
    if most >= 24:
        flat = max(_spread(results.costs, method, 24) for method in methods)
        work = "compute per input and element, 2 to 24 models"
        yield Judged(work, f"flat within {FLAT} x", f"{flat:.2f} x", flat <= FLAT)
    if most >= 64:
        graceful = max(_spread(results.costs, method, 64) for method in methods)
        target = f"graceful: at most {GRACEFUL:.0f} x the least"
        yield Judged("the same, up to 64 models", target, f"{graceful:.2f} x", graceful <= GRACEFUL)


def _spread(costs: Sequence[Cost], method: str, most: int) -> float:
    """The dearest by the cheapest number of models."""
    own = [cost.cached for cost in costs if cost.method == method and cost.models <= most]
    return max(own) / min(own)


def _memory(results: Results) -> Iterator[Judged]:
    told = [(row.peak - row.budget, row) for row in _budgeted(results)]
    if told:
        beside, row = max(told, key=lambda pair: pair[0])
        target = f"--memory + {BESIDE_BUDGET / 1e6:.0f} MB at most"
        measured = f"--memory {'+' if beside >= 0 else '-'} {abs(beside) / 1e6:.0f} MB ({row.name})"
        yield Judged(f"peak resident memory, worst of {len(told)}", target, measured, beside <= BESIDE_BUDGET)


def _budgeted(results: Results) -> list[Row]:
    return [row for section in results.sections.values() for row in section.rows if row.budget]


def _formats(formats: Section | None) -> Iterator[Judged]:
    for variant, limit in PER_BYTE.items() if formats else ():
        times = max((per_byte(formats, variant, name) for name in FORMAT_WORK), default=0.0)
        target = f"within {limit} x of bfloat16 per byte of input"
        yield Judged(f"{variant}, the worse of two methods", target, f"{times:.2f} x", times <= limit)


FORMAT_WORK = ("weft task_arithmetic", "weft ties, scope: model")


def per_byte(formats: Section, variant: str, name: str) -> float:
    """How many times as long as in bfloat16 a byte of input takes."""
    row, usual = formats.row(f"{variant}: {name}"), formats.row(f"bfloat16: {name}")
    assert row is not None
    assert usual is not None
    return (row.median / row.reads) / (usual.median / usual.reads)


def _planning(experts: Section | None) -> Iterator[Judged]:
    row = experts.row("weft plan") if experts else None
    if row:
        target = f"under {PLANNING:.0f} s"
        yield Judged(f"{_MANY}: weft plan", target, f"{row.median:.2f} s", row.median < PLANNING)


def _tiny(tiny: Section | None) -> Iterator[Judged]:
    cached, first = (tiny.row(name) if tiny else None for name in ("kernels cached", "nothing compiled yet"))
    if cached:
        yield Judged("a tiny merge, kernels cached", f"under {TINY} s", f"{cached.median:.2f} s", cached.median < TINY)
    if first:
        says = "says" if first.compiles else "does not say"
        target = f"under {FIRST:.0f} s, says that it compiles"
        met = first.median < FIRST and first.compiles
        yield Judged("the first merge ever", target, f"{first.median:.2f} s, {says} so", met)
