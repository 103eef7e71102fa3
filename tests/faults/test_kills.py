"""A merge may be killed at any instant, and any call of the operating system may fail: nothing is lost or torn.

See `arena` for what is done. Here only some of all calls are struck at, others each time; `make long` strikes at all.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.noting import note

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the layer under writes knows Linux only")

SCENARIOS = ["ties", "ties-tensor", "della-ties", "linear", "masks", "masks-ties"]
DEATHS = ["before", "after", "half", "power"]
FAULTS = ["ENOSPC", "EIO", "full"]
VARIANTS = ["new", "overwrite", "two-steps", "file"]
IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where syncing costs nothing, if there is such a place: it is the order of calls that counts here."""
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as made:
        yield Path(made)


def struck(folder: Path, **request: Any) -> list[dict[str, Any]]:
    """What came of all strikes that struck."""
    command = [sys.executable, "-m", "tests.faults.arena"]
    asked = json.dumps({"folder": str(folder), "eager": True, **request})
    told = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=7200)
    assert told.returncode == 0, told.stderr
    return [one for one in json.loads(told.stdout)["strikes"] if one["struck"]]


def check(strike: Mapping[str, Any]) -> None:
    """The old output or the new one was there in full, and the same command ended in the same bytes."""
    assert "Traceback" not in strike["struck"], strike
    assert strike["whole"], strike
    assert strike["went_on"], strike
    assert strike["same"], strike
    assert strike["left"] == [], strike


def sampled(kinds: list[str], count: int) -> dict[str, Any]:
    """About so many strikes of one request, others each time."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    step = 120 * len(kinds) // count | 1  # odd, so that every kind has its turn
    return {"kinds": kinds, "step": step, "offset": random.Random(seed).randrange(step)}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scenario", ["ties", "linear", "masks"])
def test_killed_at_some_calls(folder: Path, scenario: str, variant: str) -> None:
    strikes = struck(folder, scenario=scenario, variant=variant, **sampled(DEATHS, 7))
    assert strikes
    for strike in strikes:
        assert strike["struck"] == "killed"
        check(strike)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["new", "two-steps"])
def test_some_calls_fail(folder: Path, variant: str) -> None:
    strikes = struck(folder, scenario="ties", variant=variant, **sampled(FAULTS, 12))
    assert strikes
    for strike in strikes:
        told = "No space left" in strike["struck"] or "Input/output error" in strike["struck"]
        assert told or strike["whole"], strike  # what fails in tidying up, when all is in its place, is no error
        check(strike)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["ties", "della-ties"])
def test_work_is_taken_up(folder: Path, scenario: str) -> None:
    """Killed halfway and later, most merges find something that they need not do again."""
    strikes = struck(folder, scenario=scenario, variant="new", kinds=["after"], step=9, offset=60)
    assert any(strike["continued"] is True for strike in strikes)
    for strike in strikes:
        check(strike)


@pytest.mark.slow
def test_killed_by_the_clock(folder: Path) -> None:
    """Not at a call, but at a time; with the journal written at its own pace."""
    strikes = struck(folder, scenario="ties", variant="new", kinds=["clock"], eager=False, tick=0.5, last=120, step=7)
    assert strikes
    for strike in strikes:
        check(strike)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_and_killed_again(folder: Path, variant: str) -> None:
    """The merge that goes on is struck as well; the one after it ends in the same bytes."""
    strikes = struck(folder, scenario="ties", variant=variant, twice=True, **sampled(DEATHS, 5))
    for strike in strikes:
        check(strike)


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_call(folder: Path, scenario: str, variant: str) -> None:
    counted(folder, scenario=scenario, variant=variant, kinds=[*DEATHS, *FAULTS], step=STEP)


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scenario", ["ties", "masks-ties"])
def test_killed_twice_at_every_call(folder: Path, scenario: str, variant: str) -> None:
    counted(folder, scenario=scenario, variant=variant, kinds=DEATHS, twice=True, step=STEP)


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_every_fifth_of_a_millisecond(folder: Path, variant: str) -> None:
    counted(folder, scenario="ties", variant=variant, kinds=["clock"], eager=False, tick=0.2, last=400, step=STEP)


STEP = int(os.environ.get("WEFT_STEP", "1"))
"""Strike at every so many of all there are; odd and no multiple of 7, so that every kind has its turn."""


def counted(folder: Path, scenario: str, variant: str, **request: Any) -> None:
    """Strike, check, and note how many there were."""
    strikes = struck(folder, scenario=scenario, variant=variant, **request)
    for strike in strikes:
        check(strike)
    kinds = Counter(f"{strike['kind']}, twice" if request.get("twice") else strike["kind"] for strike in strikes)
    went_on = sum(strike["continued"] is True for strike in strikes)
    note("kills", {"scenario": scenario, "variant": variant, "kinds": dict(kinds), "continued": went_on})
