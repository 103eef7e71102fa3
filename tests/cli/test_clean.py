"""`weft clean`: what killed merges left goes, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.running import run
from weft.checkpoints.beside import FRESH, SNAPSHOT, STAGING, beside
from weft.checkpoints.locking import locked
from weft.checkpoints.logbook import Logbook
from weft.checkpoints.swap import old_path

LINUX = pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals of this kind")


def left(target: Path) -> Path:
    """What a killed merge leaves of an output."""
    folder = beside(target, STAGING)
    (folder / "output").mkdir(parents=True)
    (folder / "output" / "model.safetensors").write_bytes(b"x" * 5000)
    book = Logbook(folder / "journal")
    book.append({"identity": {}})
    book.close()
    return folder


def whole(place: Path, content: str = "old") -> Path:
    """An output."""
    place.mkdir()
    (place / "model.safetensors").write_text(content)
    return place


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestRemoving:
    def test_what_is_left_in_a_folder_goes_and_outputs_stay(self, tmp_path: Path) -> None:
        left(tmp_path / "one"), left(tmp_path / "two.safetensors")
        whole(tmp_path / "three")
        told = run(tmp_path, "clean", "--yes").stdout.splitlines()
        assert [line.split()[0] for line in told] == [".one.weft-staging", ".two.safetensors.weft-staging"]
        assert all(" kB, " in line and line.endswith(" seconds old") for line in told)
        assert names(tmp_path) == ["three"]

    def test_one_output_can_be_named(self, tmp_path: Path) -> None:
        left(tmp_path / "one"), left(tmp_path / "two")
        run(tmp_path, "clean", "one", "--yes")
        assert names(tmp_path) == [".two.weft-staging"]

    def test_the_state_beside_an_output_that_is_there(self, tmp_path: Path) -> None:
        """A replacement that was killed: the old output stays."""
        whole(tmp_path / "out")
        left(tmp_path / "out")
        run(tmp_path, "clean", "out", "--yes")
        assert names(tmp_path) == ["out"]
        assert (tmp_path / "out" / "model.safetensors").read_text() == "old"

    def test_what_a_killed_measurement_summed(self, tmp_path: Path) -> None:
        """The file that an earlier measurement finished stays."""
        (tmp_path / "f.safetensors").write_bytes(b"old")
        beside(tmp_path / "f.safetensors", SNAPSHOT).write_bytes(b"x" * 5000)
        beside(tmp_path / "f.safetensors", FRESH).write_bytes(b"x" * 100)
        [told] = run(tmp_path, "clean", "--yes").stdout.splitlines()
        assert told.startswith(".f.safetensors.weft-snapshot  ")
        assert names(tmp_path) == ["f.safetensors"]

    def test_a_lock_that_a_killed_merge_left(self, tmp_path: Path) -> None:
        (tmp_path / ".out.weft-lock").touch()
        run(tmp_path, "clean", "--yes")
        assert names(tmp_path) == []

    def test_only_what_lies_in_the_folder_itself(self, tmp_path: Path) -> None:
        (tmp_path / "deeper").mkdir()
        left(tmp_path / "deeper" / "out")
        assert "nothing to remove" in run(tmp_path, "clean", "--yes").stdout
        assert names(tmp_path / "deeper") == [".out.weft-staging"]

    def test_json(self, tmp_path: Path) -> None:
        left(tmp_path / "out")
        told = json.loads(run(tmp_path, "clean", "--yes", "--json").stdout)
        assert told["ok"] is True
        (one,) = told["removed"]
        assert (one["output"], one["folder"]) == ("out", ".out.weft-staging")
        assert one["bytes"] >= 5000
        assert names(tmp_path) == []

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert run(tmp_path, "clean").stdout == "nothing to remove in .\n"
        assert "no such folder or unfinished output: nowhere" in run(tmp_path, "clean", "nowhere", code=2).stderr


class TestTheOldOutput:
    """Where a system cannot exchange two folders, the old output waits aside for a moment; a crash may leave it."""

    def test_comes_back_if_the_new_one_is_not_in_its_place(self, tmp_path: Path) -> None:
        whole(old_path(tmp_path / "out"))
        left(tmp_path / "out")
        run(tmp_path, "clean", "--yes")
        assert names(tmp_path) == ["out"]
        assert (tmp_path / "out" / "model.safetensors").read_text() == "old"

    def test_goes_if_it_is(self, tmp_path: Path) -> None:
        whole(tmp_path / "out", "new")
        whole(old_path(tmp_path / "out"))
        run(tmp_path, "clean", "--yes")
        assert names(tmp_path) == ["out"]
        assert (tmp_path / "out" / "model.safetensors").read_text() == "new"


class TestAsking:
    @pytest.mark.parametrize("more", [[], ["--json"]])
    def test_nobody_to_ask_is_refused(self, tmp_path: Path, more: list[str]) -> None:
        left(tmp_path / "out")
        done = run(tmp_path, "clean", *more, code=2)
        said = done.stdout if more else done.stderr
        assert "what would be removed cannot be made again without its command" in said
        assert "add --yes" in said
        assert names(tmp_path) == [".out.weft-staging"]

    @LINUX
    @pytest.mark.parametrize(("answer", "code", "remain"), [("n", 1, [".out.weft-staging"]), ("y", 0, [])])
    def test_a_person_is_asked(self, tmp_path: Path, answer: str, code: int, remain: list[str]) -> None:
        left(tmp_path / "out")
        status, said = answered(tmp_path, answer)
        assert "Remove " in said
        assert "Their commands would begin anew [y/N]" in said
        assert status == code
        assert names(tmp_path) == remain


def answered(folder: Path, answer: str) -> tuple[int, str]:
    """Run it at a terminal, and type this."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "weft", "clean"]
    child = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    said, _ = child.communicate(timeout=60)
    os.close(ours)
    return child.returncode, said.decode()


class TestARunningMerge:
    @pytest.mark.parametrize("place", [".", "out"])
    def test_is_never_touched(self, tmp_path: Path, place: str) -> None:
        left(tmp_path / "out")
        with locked(tmp_path / "out"):
            before = sorted(tmp_path.rglob("*"))
            assert "nothing to remove" in run(tmp_path, "clean", place, "--yes").stdout
            assert sorted(tmp_path.rglob("*")) == before
        run(tmp_path, "clean", place, "--yes")
        assert names(tmp_path) == []

    def test_that_begins_while_a_person_thinks_is_not_either(self, tmp_path: Path) -> None:
        """It was found abandoned, and is not any more when it would be removed."""
        from weft.checkpoints.leftovers import find_abandoned, remove_begun
        from weft.errors import InputError

        folder = left(tmp_path / "out")
        (found,) = find_abandoned(tmp_path)
        with held_elsewhere(tmp_path / "out"), pytest.raises(InputError, match="another process is writing"):
            remove_begun(found.target)
        assert (folder / "output" / "model.safetensors").exists()


@contextmanager
def held_elsewhere(target: Path) -> Iterator[None]:
    """Another process holds the lock."""
    program = (
        "import sys, time; from pathlib import Path; from weft.checkpoints.locking import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    try:
        yield
    finally:
        child.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        child.wait()
        child.stdout.close()
