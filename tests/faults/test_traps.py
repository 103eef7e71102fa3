"""States and tricks through which a merge could lose something, or write where it should not."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import weft
from tests.faults.test_inputs import Meddler, interrupt, recipe
from tests.faults.test_inputs import models as models
from weft.checkpoints import staging
from weft.checkpoints.leftovers import find_abandoned, remove_begun
from weft.checkpoints.memory import InMemory
from weft.checkpoints.rows import RowMap
from weft.engine import journal
from weft.engine.identity import _told_rows
from weft.engine.snapshots import Snapshots


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


def add(table: np.ndarray, other: np.ndarray) -> None:
    table += other


def merged(folder: Path) -> np.ndarray:
    return load_file(folder / "out" / "model.safetensors")["w"]


def killed_after_the_exchange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = staging.put

    def die(*arguments: Any) -> None:
        put(*arguments)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(staging, "put", die)
        weft.merge_to(recipe(folder), folder / "out", overwrite=True)


class TestOldOutput:
    """After an exchange, the staging folder holds the old output under the names of the new."""

    @pytest.fixture
    def exchanged(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        weft.merge_to(recipe(models) | {"parameters": {"weight": [1, 0]}}, models / "out")
        killed_after_the_exchange(models, monkeypatch)
        return models

    def test_the_same_command_says_that_it_is_done(self, exchanged: Path) -> None:
        assert weft.merge_to(recipe(exchanged), exchanged / "out", overwrite=True).continued
        assert (merged(exchanged) == 0.5).all()

    def test_it_is_never_taken_for_the_new_one(self, exchanged: Path) -> None:
        shutil.rmtree(exchanged / "out")
        assert not weft.merge_to(recipe(exchanged), exchanged / "out").continued
        assert (merged(exchanged) == 0.5).all()

    def test_nor_is_a_folder_that_happens_to_have_its_number(self, exchanged: Path) -> None:
        for path in (exchanged / "out").iterdir():
            path.unlink()
        weft.merge_to(recipe(exchanged), exchanged / "out", overwrite=True)
        assert (merged(exchanged) == 0.5).all()


def test_an_old_output_put_aside_is_not_lost_to_a_new_folder(models: Path) -> None:
    interrupt(models)
    (models / ".out.weft-old").mkdir()
    (models / ".out.weft-old" / "precious").write_text("x")
    (models / "out").mkdir()
    remove_begun(models / "out")
    assert (models / ".out.weft-old" / "precious").exists()


def test_a_planted_link_is_not_followed(models: Path) -> None:
    victim = models / "victim"
    (victim / "below").mkdir(parents=True)
    (victim / "journal").write_text("mine")
    (models / ".out.weft-staging").symlink_to(victim)
    with pytest.raises(weft.InputError, match="is not a folder of yours: a link, or somebody else's"):
        weft.merge_to(recipe(models), models / "out")
    assert list(find_abandoned(models)) == []
    staging.discard(models / ".out.weft-staging")
    assert sorted(path.name for path in victim.iterdir()) == ["below", "journal"]


def test_a_link_in_the_place_of_a_shard_is_not_written_through(models: Path) -> None:
    interrupt(models)
    victim = models / "victim"
    shard = models / ".out.weft-staging" / "output" / "model.safetensors"
    shutil.copy(shard, victim)
    before = victim.read_bytes()
    shard.unlink()
    shard.symlink_to(victim)
    weft.merge_to(recipe(models), models / "out")
    assert victim.read_bytes() == before
    assert not (models / "out" / "model.safetensors").is_symlink()
    assert (merged(models) == 0.5).all()


class TestSnapshots:
    @staticmethod
    def opened(file: Path, vouches: Callable[[], bool] = lambda: True, name: str = "table") -> Snapshots:
        return Snapshots(file, vouches, add, {}, {name: (3,)})

    def test_what_is_kept_comes_back(self, tmp_path: Path) -> None:
        snapshots, table = self.opened(tmp_path / "s"), np.zeros(3)
        share = snapshots.share({"table": table})
        with share.counting([(0, 0, 10)]):
            table += 1
        snapshots.keep(tmp_path / "s")
        again = self.opened(tmp_path / "s")
        assert again.restored["table"].tolist() == [1, 1, 1]
        assert list(again.left(0, 0, 20)) == [(10, 20)]

    def test_a_tile_that_was_broken_off_is_never_kept(self, tmp_path: Path) -> None:
        snapshots, table = self.opened(tmp_path / "s"), np.zeros(3)
        share = snapshots.share({"table": table})
        with pytest.raises(weft.MergeError), share.counting([(0, 0, 10)]):
            table += 1
            raise weft.MergeError("cannot read")
        snapshots.keep(tmp_path / "s")
        assert not (tmp_path / "s").exists()

    def test_counts_of_another_search_are_not_believed(self, tmp_path: Path) -> None:
        snapshots = self.opened(tmp_path / "s")
        with snapshots.share({"table": np.ones(3)}).counting([(0, 0, 10)]):
            pass
        snapshots.keep(tmp_path / "s")
        other = self.opened(tmp_path / "s", name="another")
        assert other.restored == {}
        assert list(other.left(0, 0, 10)) == [(0, 10)]

    def test_nothing_is_kept_of_inputs_that_are_at_fault(self, tmp_path: Path) -> None:
        snapshots = self.opened(tmp_path / "s", vouches=lambda: False)
        snapshots.share({"table": np.ones(3)})
        snapshots.keep(tmp_path / "s")
        assert not (tmp_path / "s").exists()


def test_an_interrupt_while_files_are_reopened_loses_nothing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(models)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(staging, "write_at", stop)
        weft.merge_to(recipe(models), models / "out")
    assert weft.merge_to(recipe(models), models / "out").continued


def test_a_failed_sync_is_told_and_what_it_covered_is_done_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of such an error once; the next sync would succeed over lost data."""

    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal, "_SYNC_INTERVAL", 0.01)
    wait = Meddler(lambda _: time.sleep(0.3), models)
    with monkeypatch.context() as patched:
        patched.setattr(staging.Staging, "sync", fail)
        with pytest.raises(weft.MergeError, match="could not be brought to the disk: Input/output error"):
            weft.merge_to(recipe(models), models / "out", progress=wait)
    monkeypatch.setattr(journal, "_SYNC_INTERVAL", 20.0)
    assert not weft.merge_to(recipe(models), models / "out").continued or (merged(models) == 0.5).all()
    assert (merged(models) == 0.5).all()


def test_what_is_put_into_an_old_output_meanwhile_is_not_deleted(models: Path) -> None:
    weft.merge_to(recipe(models), models / "out")
    put = Meddler(lambda _: (models / "out" / "notes.txt").write_text("x"), models)
    with pytest.raises(weft.MergeError, match=r"now holds what no merge wrote, and is not replaced: notes\.txt"):
        weft.merge_to(recipe(models), models / "out", overwrite=True, progress=put)
    (models / "out" / "notes.txt").rename(models / "notes.txt")
    assert weft.merge_to(recipe(models), models / "out", overwrite=True).continued


def test_rows_of_vocabularies_are_told_by_what_they_are() -> None:
    """Not by where an object lies, and to the last row."""

    def told(last: int) -> list[str]:
        rows = np.append(np.arange(2000), last)
        source = InMemory({"e": np.zeros((3, 2), np.float32)}, "a model")
        return list(_told_rows({"base": {"e": RowMap(((source, "e"),), rows * 0, rows)}}))

    assert told(1) == told(1) != told(2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 250, "the output's name is too long"),
        (".", "it is where a disk begins, or where you are"),
        ("loop", "is a link that leads nowhere"),
    ],
)
def test_a_place_where_no_output_can_be(models: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    (models / "here").mkdir()
    (models / "here" / "loop").symlink_to("loop")
    monkeypatch.chdir(models / "here")
    with pytest.raises(weft.InputError, match=says):
        weft.merge_to(recipe(models), name, overwrite=True)
