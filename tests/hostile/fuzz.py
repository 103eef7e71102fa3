"""Fuzz the readers for a while: `python -m tests.hostile.fuzz --minutes 10`. Prints a table, and figures as JSON.

An input that breaks the property is saved under `runs/fuzz/`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.hostile.fuzzing import TARGETS, Target, spoiled
from tests.noting import note

SAVED = Path("runs/fuzz")
ADDRESS = 8 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--target", choices=TARGETS, action="append")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS, ADDRESS))
    names = given.target or list(TARGETS)
    told = {name: fuzzed(name, TARGETS[name], f"{seed}/{name}", 60 * given.minutes / len(names)) for name in names}
    show(told)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"seed": seed, "minutes": given.minutes, "peak_bytes": peak, "targets": told}
    print(json.dumps(figures))
    note("fuzz", figures)
    return 1 if any(found["errors"] for found in told.values()) else 0


def fuzzed(name: str, target: Target, seed: str, seconds: float) -> dict[str, float]:
    """Figures of one reader."""
    chance, counts, longest = random.Random(seed), Counter[str](), 0.0
    target.holds(target.seeds[0])  # imports torch where it is needed
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        content = spoiled(target, chance)
        before = time.monotonic()
        try:
            counts["accepted" if target.holds(content) else "refused"] += 1
        except Exception:
            counts["errors"] += 1
            keep(name, content)
        longest = max(longest, time.monotonic() - before)
    outcomes = ("accepted", "refused", "errors")
    return {"inputs": counts.total(), **{o: counts[o] for o in outcomes}, "longest_seconds": round(longest, 3)}


def keep(name: str, content: bytes) -> None:
    SAVED.mkdir(parents=True, exist_ok=True)
    path = SAVED / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(traceback.format_exc(), "utf-8", "backslashreplace")


def show(told: dict[str, dict[str, float]]) -> None:
    columns = ("inputs", "accepted", "refused", "errors", "longest_seconds")
    print("".join((f"{'target':<10}", *(f"{column:>16}" for column in columns))))
    for name, figures in told.items():
        print("".join((f"{name:<10}", *(f"{figures[column]:>16,}" for column in columns))))


if __name__ == "__main__":
    raise SystemExit(main())
