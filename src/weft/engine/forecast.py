"""What a merge would do, from headers alone: bytes, passes, memory, disk, time, and what happens to which tensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.engine.cost import bytes_to_move, bytes_to_read, passes
from weft.engine.planning import Plan
from weft.engine.settings import Settings, budget
from weft.engine.work import Copied, Work
from weft.kernels.cache import cache_folder
from weft.kernels.dtypes import FLOAT32

INTERPRETER = 200 * 10**6
"""Resident bytes of the interpreter and its libraries, beside the memory for tensors."""

TORCH = 300 * 10**6
"""Resident bytes of torch, beside the memory for tensors."""


@dataclass(frozen=True)
class Group:
    """Tensors that are treated alike.

    Attributes:
        rule: the patterns of the rule that decided; empty for the recipe's own method.
        action: what happens to them, in words.
        tensors, parameters: how many.
        bytes: what they take in the output.
    """

    rule: str
    action: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Forecast:
    """What would happen.

    Attributes:
        method: the recipe's method.
        inputs: for each input its name, path, number of tensors and of parameters.
        groups: what happens to which tensors.
        read_bytes, write_bytes: of input that is needed, and of output.
        moved_bytes: looked at or written, every pass counted.
        passes: how often the input is gone over.
        peak_memory: bytes that will be resident at most.
        free_disk: bytes free where the output would lie, if an output was named.
        seconds: at the rate measured in earlier merges on this machine; None before the first, and where it is not
            reading and writing that takes the time, but what is done with whole tensors.
        warnings: what a person should know before.
        download_bytes: of models on the Hub that a merge would have to download first.
        whole_memory: bytes of the peak that are for tensors which a method sees whole.
    """

    method: str
    inputs: tuple[dict[str, Any], ...]
    groups: tuple[Group, ...]
    read_bytes: int
    write_bytes: int
    moved_bytes: int
    passes: int
    peak_memory: int
    free_disk: int | None
    seconds: float | None
    warnings: tuple[str, ...]
    download_bytes: int = 0
    whole_memory: int = 0


def forecast(
    plan: Plan,
    method: str,
    settings: Settings,
    inputs: tuple[dict[str, Any], ...],
    output: Path | None,
    download_bytes: int = 0,
) -> Forecast:
    """Sum a plan up.

    Args:
        plan: what would be done.
        method: the recipe's method.
        settings: memory and workers.
        inputs: descriptions of the inputs, passed on.
        output: where the output would lie.
        download_bytes: what a merge would have to download first, passed on.
    """
    divided = budget(settings, plan.items)
    read, moved = bytes_to_read(plan), bytes_to_move(plan)
    held = settings.memory - divided.resident + min(divided.resident, read if passes(plan) > 1 else 0)
    rate = measured_rate()
    return Forecast(
        method=method,
        inputs=inputs,
        groups=tuple(_groups(plan)),
        read_bytes=read,
        write_bytes=plan.write_bytes,
        moved_bytes=moved,
        passes=passes(plan),
        peak_memory=held + INTERPRETER + (TORCH if divided.whole else 0),
        whole_memory=divided.whole,
        free_disk=free_disk(output) if output else None,
        seconds=moved / rate if rate and not divided.whole else None,
        warnings=plan.warnings,
        download_bytes=download_bytes,
    )


def free_disk(output: Path) -> int:
    """Bytes free where an output would lie."""
    existing = next(p for p in (output.parent, *output.resolve().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _groups(plan: Plan) -> Iterable[Group]:
    rows: dict[tuple[str, str], list[Work | Copied]] = {}
    for item in plan.items:
        rows.setdefault((item.rule, _action(item)), []).append(item)
    for (rule, action), items in rows.items():
        count = [1 + len(item.aliases) for item in items]
        sizes = [(item.spec.size, item.spec.nbytes * n) for item, n in zip(items, count, strict=True)]
        yield Group(rule, action, sum(count), sum(size for size, _ in sizes), sum(nbytes for _, nbytes in sizes))
    if plan.dropped:
        yield Group("", "dropped", len(plan.dropped), 0, 0)


def _action(item: Work | Copied) -> str:
    if isinstance(item, Copied):
        return f"copied from {item.operand.checkpoint.label}"
    if item.method is None:
        source = next(iter(item.operands.values()))
        return f"copied from {source.checkpoint.label} as {item.spec.dtype}"
    in_double = "" if item.compute is FLOAT32 else " in float64"
    whole = ", whole" if item.program.whole else ""
    return f"{item.method.name}{whole}{in_double}"


def measured_rate() -> float | None:
    """Bytes a second that earlier merges moved on this machine."""
    try:
        return float(json.loads(_rate_file().read_text())["bytes_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_rate(moved: int, seconds: float) -> None:
    """Note how fast a merge was; only long ones tell something, and new ones count as much as all before."""
    if moved < 10**8 or seconds <= 0:
        return
    before = measured_rate()
    rate = moved / seconds if before is None else (before + moved / seconds) / 2
    try:
        path = _rate_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({"bytes_per_second": rate}))
        scratch.replace(path)
    except OSError:
        return  # a cache that cannot be written costs a forecast, not a merge


def _rate_file() -> Path:
    return cache_folder().parent / "rate.json"
