"""Merges random checkpoints by random recipes for some minutes, and compares every element with the references.

    python -m tests.long.soak --minutes 10              a new seed, which is printed
    python -m tests.long.soak --seed 7 --case 123       one case again

Every case: a merge on disk against independent float64 references (`tests.long.judging` says how), the same bytes with
other tiles, budgets and threads, the same numbers in memory, and no error from `weft verify`. After a mismatch the
folder of the case is kept, with the recipe, its inputs and its outputs.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import weft
from tests.long.answers import NoReferenceError
from tests.long.cases import Case
from tests.long.checking import CheckError, Outcome, checked
from tests.long.drawing import METHODS, draw
from tests.noting import note


@dataclass
class Tally:
    """What a soak found.

    Attributes:
        cases: how many were run.
        elements, forked, alone: compared; of those near a discontinuity or in an ill-conditioned matrix; and of those
            for which only the method's formula spoke, no reference.
        failed: the numbers of the cases that did not hold.
        unspoken: methods without a reference.
        methods: how many cases each method had.
        steps: how many recipes had something before or after the method.
    """

    cases: int = 0
    elements: int = 0
    forked: int = 0
    alone: int = 0
    failed: list[int] = field(default_factory=list)
    unspoken: set[str] = field(default_factory=set)
    methods: dict[str, int] = field(default_factory=dict)
    steps: int = 0

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count a case that held."""
        self.cases += 1
        self.elements += outcome.elements
        self.forked += outcome.forked
        self.alone += outcome.alone
        self.methods[case.method] = self.methods.get(case.method, 0) + 1
        self.steps += sum(step is not None for step in (case.before, case.after))

    def __str__(self) -> str:
        share = self.forked / max(self.elements, 1)
        by_method = ", ".join(f"{name} {count}" for name, count in sorted(self.methods.items()))
        return (
            f"{self.cases} cases ({by_method}), {self.elements:,} elements, {share:.2%} of them near a discontinuity, "
            f"{self.alone / max(self.elements, 1):.2%} told by the formula alone; "
            f"{len(self.failed)} failed{f': {self.failed}' if self.failed else ''}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; the exit status is 1 if anything did not hold."""
    asked = _parser().parse_args(arguments)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    tally = Tally()
    keep = asked.keep or Path(tempfile.gettempdir())
    keep.mkdir(parents=True, exist_ok=True)
    for number in _numbers(asked.minutes, asked.case, asked.cases):
        _one(seed, number, tally, keep)
    print(tally)
    counts = {
        "cases": tally.cases,
        "elements": tally.elements,
        "forked": tally.forked,
        "alone": tally.alone,
        "failed": len(tally.failed),
    }
    note("soak", {"seed": seed, **counts, "methods": tally.methods})
    for method in sorted(tally.unspoken):
        print(f"error: method {method} has no reference in tests/references")
    return 1 if tally.failed or tally.unspoken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Merge random models by random recipes and compare with references.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--seed", type=int, help="of all chance; drawn anew if not given")
    parser.add_argument("--case", type=int, help="run this case only")
    parser.add_argument("--cases", type=int, help="run so many cases, however long they take")
    parser.add_argument("--keep", type=Path, help="where folders of failed cases are kept")
    return parser


def _numbers(minutes: float, case: int | None, cases: int | None) -> Iterator[int]:
    if case is not None:
        yield case
        return
    until = time.monotonic() + 60 * minutes
    number = 0
    while number < cases if cases is not None else time.monotonic() < until:
        yield number
        number += 1


def _one(seed: int, number: int, tally: Tally, keep: Path) -> None:
    """Draw, run and judge one case."""
    case = draw(seed, number)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-{number}-", dir=keep))
    print(f"--seed {seed} --case {number}: {described(case)}", flush=True)
    try:
        tally.add(case, checked(case, folder))
    except NoReferenceError as missing:
        tally.unspoken.add(case.method)
        print(f"  {missing}")
    except CheckError as fault:
        _told(case, folder, tally, str(fault))
        return
    except Exception:  # whatever Weft raises for a recipe that is sound is a fault of Weft
        _told(case, folder, tally, traceback.format_exc())
        return
    shutil.rmtree(folder)


def described(case: Case) -> str:
    """A case in one line."""
    formats = sorted({t.dtype.name for model in case.all for t in model.tensors.values()})
    elements = sum(t.size for t in case.reference.tensors.values())
    name = " + ".join(step["method"] for step in (case.before, {"method": case.method}, case.after) if step)
    parts = [f"{name} of {len(case.models)}", f"{len(case.reference.tensors)} tensors", f"{elements:,} elements"]
    return ", ".join([*parts, "/".join(formats), f"{len(case.rules)} rules", f"on_missing {case.on_missing}"])


def _told(case: Case, folder: Path, tally: Tally, what: str) -> None:
    tally.failed.append(case.number)
    recipe = {
        "method": case.method,
        "parameters": case.parameters,
        "models": {model.name: {"form": model.form, "rename": model.rename, **model.own} for model in case.models},
        "base": case.base and case.base.form,
        "before": case.before,
        "after": case.after,
        "rules": [rule.written() for rule in case.rules],
        "output": case.output,
        "on_missing": case.on_missing,
        "knobs": [vars(knobs) for knobs in case.knobs],
    }
    text = json.dumps(recipe, indent=2, default=repr)
    print(f"FAILED --seed {case.seed} --case {case.number}\n{text}\n{what}\nkept: {folder}", flush=True)
    (folder / "case.json").write_text(text)


if __name__ == "__main__":
    print(f"weft {weft.__version__}, methods: {', '.join(METHODS)}")
    sys.exit(main())
