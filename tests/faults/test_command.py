"""The real command, killed as a machine or a person would: at some moment, with whatever it was doing then.

Models are of 40 MB each in CI and of 200 MB in the long tier. A first command runs undisturbed; its bytes are what all
others must end in, however often they were killed before.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.noting import note
from weft.checkpoints.swap import old_path
from weft.engine.journal import holds_work

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")

IN_MEMORY = Path("/dev/shm")
INTERRUPTED = (130, -signal.SIGINT)
"""A shell calls both 130. `python -m` ends by the signal itself if it came while a library was evaluating text."""

OUTPUTS = ("out", "out.safetensors")


@dataclass(frozen=True)
class Commands:
    """Merges of one set of models, as commands.

    Attributes:
        folder: where the models are and outputs go.
        seconds: how long one takes.
        digests: of the outputs of undisturbed commands, by the output's name.
        older: of what is there before, where something is replaced.
    """

    folder: Path
    seconds: float
    digests: dict[str, str]
    older: dict[str, str]

    def start(self, output: str = "out", *more: str) -> subprocess.Popen[str]:
        """Begin."""
        return _start(self.folder, "ties", output, *more)

    def run(self, output: str = "out", *more: str) -> tuple[int, str]:
        """Begin, and wait for the end: the exit code, and what it said."""
        child = self.start(output, *more)
        said = child.communicate(timeout=300)[1]
        return child.returncode, said

    def make_older(self, output: str) -> None:
        """Put something there that is to be replaced."""
        _ended(_start(self.folder, "linear", output))


def _start(folder: Path, method: str, output: str, *more: str) -> subprocess.Popen[str]:
    base = ["-b", "base", "-p", "density=0.3"] if method == "ties" else []
    command = [sys.executable, "-u", "-m", "weft", "merge", "-m", method, *base, "one", "two", "-o", output, *more]
    options = ["--memory", "60MB", "--shard-size", "9MB"] if method == "ties" else []
    return subprocess.Popen(
        [*command, *options], cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=_heeds_interrupts
    )


def _heeds_interrupts() -> None:
    """What runs in the background of a shell inherits deafness to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ended(child: subprocess.Popen[str]) -> str:
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 0, said
    return said


def digest(place: Path) -> str:
    """All bytes of an output; empty if there is none."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place] if place.exists() else []
    told = [(str(file.relative_to(place)), file.read_bytes()) for file in files if file.is_file()]
    return hashlib.sha256(b"".join(name.encode() + content for name, content in told)).hexdigest() if told else ""


def remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def build(folder: Path, megabytes: int) -> Commands:
    """Models, and what becomes of them when nobody disturbs."""
    generator = np.random.default_rng(3)
    base = {f"layers.{k}.w": generator.standard_normal((megabytes * 25, 1000), np.float32) for k in range(10)}
    for name in ("base", "one", "two"):
        (folder / name).mkdir()
        noise = 0.0 if name == "base" else 0.01
        tuned = {k: v + noise * generator.standard_normal(v.shape, np.float32) for k, v in base.items()}
        save_file(tuned, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    digests, older, seconds = {}, {}, 0.0
    for output in OUTPUTS:
        _ended(_start(folder, "linear", output))
        older[output] = digest(folder / output)
        for _ in range(2):  # the first one compiles
            began = time.monotonic()
            _ended(_start(folder, "ties", output, "--overwrite"))
            seconds = time.monotonic() - began
        digests[output] = digest(folder / output)
        remove(folder / output)
    return Commands(folder, seconds, digests, older)


@pytest.fixture(scope="module")
def built() -> Iterator[Commands]:
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as made:
        yield build(Path(made), 40)


@pytest.fixture
def commands(built: Commands) -> Iterator[Commands]:
    yield from cleared(built)


def cleared(commands: Commands) -> Iterator[Commands]:
    """So that what one test leaves does not make the next one fail."""
    yield commands
    for place in commands.folder.glob("*out*"):
        remove(place)


def assert_clean(commands: Commands) -> None:
    """Beside models and output nothing is left."""
    left = {path.name for path in commands.folder.iterdir()} - {"base", "one", "two", *OUTPUTS}
    assert left == set()


def killed_until_done(commands: Commands, output: str, overwrite: bool, chance: random.Random) -> int:
    """Kill it again and again, at random; look each time; then let it end, and compare. How often it was killed."""
    target = commands.folder / output
    more = ["--overwrite"] if overwrite else []
    if overwrite:
        commands.make_older(output)
    kills = 0
    while kills < 6 and not is_through(target, commands):
        child = commands.start(output, *more)
        try:
            said = child.communicate(timeout=chance.uniform(0.1, 1.1) * commands.seconds)[1]
            assert child.returncode == 0, said
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            kills += 1
            assert_whole(target, commands, overwrite)
    if not is_through(target, commands):
        code, said = commands.run(output, *more)
        assert code == 0, said
    assert digest(target) == commands.digests[output]
    assert_clean(commands)
    remove(target)
    return kills


def is_through(target: Path, commands: Commands) -> bool:
    """Whether nothing is left to do; one that is killed as it exits, after its work, is."""
    return digest(target) == commands.digests[target.name] and not list(commands.folder.glob(".out*"))


def assert_whole(target: Path, commands: Commands, overwrite: bool) -> None:
    found = digest(target)
    if overwrite:
        assert found in (commands.older[target.name], commands.digests[target.name]) or (
            not found and digest(old_path(target)) == commands.older[target.name]
        )
    else:
        assert found in ("", commands.digests[target.name])


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_killed_at_random_until_it_is_done(commands: Commands, output: str, overwrite: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    killed_until_done(commands, output, overwrite, random.Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_interrupted(commands: Commands, number: signal.Signals, share: float) -> None:
    assert interrupted(commands, number, share) in (0, 1)


def interrupted(commands: Commands, number: signal.Signals, share: float) -> int:
    """Send a signal some time after it says that it merges; go on, compare. How often it was in time."""
    child = commands.start()
    assert child.stderr is not None
    while not child.stderr.readline().startswith("merging: "):
        assert child.poll() is None
    time.sleep(share * commands.seconds)
    child.send_signal(number)
    said = child.communicate(timeout=60)[1]
    was_in_time = not is_through(commands.folder / "out", commands)
    if was_in_time:
        assert child.returncode in INTERRUPTED, said
        assert "interrupted" in said
        kept = "What was done is kept beside the output: the same command goes on" in said
        assert kept == holds_work(commands.folder / "out")
        assert_whole(commands.folder / "out", commands, overwrite=False)
        _ended(commands.start())
    assert digest(commands.folder / "out") == commands.digests["out"]
    assert_clean(commands)
    remove(commands.folder / "out")
    return int(was_in_time)


@pytest.mark.slow
def test_a_second_one_is_told_so(commands: Commands) -> None:
    """Neither it nor `weft clean` touches what the first one does, which is held still meanwhile."""
    first = commands.start()
    assert first.stderr is not None
    while not first.stderr.readline().startswith("merging: "):
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)
    try:
        before = {path: path.stat().st_mtime_ns for path in commands.folder.rglob("*")}
        for more in ([], ["--restart"], ["--overwrite"], ["--dry-run"]):
            code, said = commands.run("out", *more)
            assert code == 2
            assert "another process is writing out\n  -> wait for it, or choose another output" in said
        clean = [sys.executable, "-m", "weft", "clean", "--yes"]
        told = subprocess.run(clean, cwd=commands.folder, capture_output=True, text=True, check=True).stdout
        assert "nothing to remove" in told
        assert {path: path.stat().st_mtime_ns for path in commands.folder.rglob("*")} == before
    finally:
        first.send_signal(signal.SIGCONT)
    _ended(first)
    assert digest(commands.folder / "out") == commands.digests["out"]
    assert_clean(commands)


@pytest.mark.slow
def test_what_a_killed_one_left_is_cleaned_away_or_taken_up(commands: Commands) -> None:
    _killed(commands)
    clean = [sys.executable, "-m", "weft", "clean", "--yes"]
    told = subprocess.run(clean, cwd=commands.folder, capture_output=True, text=True, check=True).stdout
    assert told.startswith(".out.weft-staging ")
    assert_clean(commands)
    _killed(commands)
    assert "the recipe is another" in commands.run("out", "-p", "scale=0.5")[1]
    code, said = commands.run("out", "--workers", "1", "--memory", "80MB")
    assert code == 0, said
    assert "going on with an interrupted merge: " in said
    assert digest(commands.folder / "out") == commands.digests["out"]


def _killed(commands: Commands) -> None:
    """Killed when some of the output is written; tried again where it was too quick for us."""
    for _ in range(30):
        child = commands.start()
        journal = commands.folder / ".out.weft-staging" / "journal"
        while child.poll() is None and not (journal.exists() and b'"wrote"' in journal.read_bytes()):
            time.sleep(0.001)
        child.kill()
        child.communicate()
        if not (commands.folder / "out").exists():
            return
        shutil.rmtree(commands.folder / "out")
    pytest.fail("it always ended before it could be killed")


@pytest.fixture(scope="module")
def built_large() -> Iterator[Commands]:
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as made:
        yield build(Path(made), 200)


@pytest.fixture
def large(built_large: Commands) -> Iterator[Commands]:
    yield from cleared(built_large)


@pytest.mark.long
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_killed_at_random_many_times(large: Commands, output: str, overwrite: bool) -> None:
    for seed in range(6):
        note("command", {"killed": killed_until_done(large, output, overwrite, random.Random(seed))})


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_many_times(large: Commands, number: signal.Signals) -> None:
    for share in np.linspace(0, 0.6, 13):
        note("command", {"interrupted": interrupted(large, number, float(share))})
