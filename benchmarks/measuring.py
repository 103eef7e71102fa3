"""How long a command takes and how much memory it and its children hold, several commands in turn."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

PROCESSES = Path("/proc")
_EVERY = 0.02


@dataclass(frozen=True)
class Contender:
    """One command that does a piece of work.

    Attributes:
        name: what to call it.
        command: the program and its arguments.
        output: what it writes; removed before each run, outside the time.
        floor: the contender that it is compared with; empty if it is one itself, or there is none. It then runs
            directly before and directly after.
        budget: the memory that it was told to keep to, in bytes; 0 if it was told nothing.
        reads: bytes of input, each counted once.
        fresh: whether nothing compiled earlier may be found.
        once: whether it is so slow that a single run must do.
    """

    name: str
    command: tuple[str, ...]
    output: Path | None = None
    floor: str = ""
    budget: int = 0
    reads: int = 0
    fresh: bool = False
    once: bool = False


@dataclass
class Result:
    """What was measured of a contender.

    Attributes:
        seconds: of each run.
        floors: for each run the seconds of its floor at that time, the mean of the run before and the run after.
        peak: the most resident memory of the process and its children in any run, in bytes.
        said: what it wrote to standard error in the last run.
    """

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    peak: int = 0
    said: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def note(self, done: Run) -> None:
        """Another run."""
        self.seconds.append(done.seconds)
        self.peak = max(self.peak, done.peak)
        self.said = done.said


@dataclass(frozen=True)
class Run:
    """One run: seconds, bytes at the peak, and what was written to standard error."""

    seconds: float
    peak: int
    said: str


def measure(contenders: Sequence[Contender], rounds: int, tell: Callable[[str], None]) -> list[Result]:
    """Run all of them in turn, once unmeasured to warm caches, then `rounds` times; each round begins with another.

    Floors run around the commands that are compared with them.

    Args:
        contenders: in the order of the results.
        rounds: how many count.
        tell: is told of every run.
    """
    for turn in range(rounds + 1):
        if turn <= 1:  # what the first round measured does not count
            results = {contender.name: Result(contender) for contender in contenders}
        _round(results, turn, tell)
    return list(results.values())


def _round(results: Mapping[str, Result], turn: int, tell: Callable[[str], None]) -> None:
    floors = {result.contender.floor for result in results.values()}
    own = [result for name, result in results.items() if name not in floors]
    shift = turn % len(own)
    before: tuple[str, float] | None = None  # the floor that ran last, if nothing has run since

    def once(result: Result) -> float:
        done = run(result.contender)
        tell(f"round {turn}: {result.contender.name}: {done.seconds:.2f} s")
        result.note(done)
        return done.seconds

    for result in (*own[shift:], *own[:shift]):
        if not result.contender.once or turn == 1:
            before = _beside_its_floor(result, results.get(result.contender.floor), before, once)


def _beside_its_floor(
    result: Result, floor: Result | None, before: tuple[str, float] | None, once: Callable[[Result], float]
) -> tuple[str, float] | None:
    """Run a command between two runs of its floor; the second may be the first of the next command.

    How long a disk takes to sync changes from one minute to the next. What is compared must have met the same disk.
    """
    if floor is None:
        once(result)
        return None
    name = floor.contender.name
    first = before[1] if before and before[0] == name else once(floor)
    once(result)
    second = once(floor)
    result.floors.append((first + second) / 2)
    return name, second


def run(contender: Contender) -> Run:
    """Run a command that must succeed; what others left to be written is on disk before."""
    if contender.output:
        _remove(contender.output)
    os.sync()
    with tempfile.TemporaryDirectory() as folder:
        fresh = {"WEFT_CACHE": folder, "NUMBA_CACHE_DIR": folder} if contender.fresh else {}
        done = timed(contender.command, fresh)
    if contender.output:
        _remove(contender.output)
    return done


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run a command.

    Raises:
        SystemExit: if it fails, with what it said.
    """
    with tempfile.TemporaryFile() as said, open(os.devnull, "wb") as nothing:
        streams = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
        began = time.perf_counter()
        child = os.posix_spawnp(command[0], command, {**os.environ, **environment}, file_actions=streams)
        with Watch(child) as watch:
            _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - began
        said.seek(0)
        text = said.read().decode(errors="replace")
    if status:
        raise SystemExit(f"failed: {' '.join(command)}\n{text[-4000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, watch.peak or usage.ru_maxrss * unit, text)


class Watch:
    """Follows the resident memory of a process and its children, where the kernel tells of it.

    Not `ru_maxrss`, which counts the process that started the command as well.
    """

    def __init__(self, process: int) -> None:
        self.peak = 0
        self._process = process
        self._ended = Event()
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.is_set():
            self.peak = max(self.peak, sum(_high_water(process) for process in tree(self._process)))
            self._ended.wait(_EVERY)


def tree(process: int) -> list[int]:
    """A process and all below it that live."""
    found = [process]
    for known in found:
        with suppress(OSError):
            for file in (PROCESSES / str(known) / "task").glob("*/children"):
                found += map(int, file.read_text().split())
    return found


def _high_water(process: int) -> int:
    """The most memory that a process has held so far, in bytes; 0 if it is gone."""
    with suppress(OSError):
        for line in (PROCESSES / str(process) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
