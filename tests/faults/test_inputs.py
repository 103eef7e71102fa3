"""Inputs that go bad while a merge reads them, and outputs that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from weft.engine.progress import Progress

Trouble = Callable[[Path], object]
SIZE = 3_000_000


class Meddler(Progress):
    """Does something to a file when a part of the merge is done."""

    def __init__(self, trouble: Trouble, file: Path, after: int = 5_000_000) -> None:
        self._trouble, self._file, self._left = trouble, file, after

    def advance(self, count: int) -> None:
        self._left -= count
        if self._left < 0 and self._trouble:
            trouble, self._trouble = self._trouble, lambda _: None
            trouble(self._file)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for k, name in enumerate(("a", "b")):
        save_file({"w": np.full(SIZE, float(k), np.float32)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def recipe(folder: Path) -> dict[str, object]:
    return {"method": "linear", "models": [folder / "a.safetensors", folder / "b.safetensors"]}


def shrink(file: Path) -> None:
    os.truncate(file, 2_000_000)


def change(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"\1")


def replace(file: Path) -> None:
    save_file({"w": np.ones(SIZE + 1, np.float32)}, file.with_name("fresh"))
    os.replace(file.with_name("fresh"), file)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (shrink, r"b\.safetensors: ends before tensor 'w' does; it was cut short while we read it"),
        (change, r"b\.safetensors was written to while it was being read; what was made of it is not used"),
        (replace, r"b\.safetensors had 12,000,\d+ bytes and has 12,000,\d+ while it was being read"),
        (Path.unlink, r"b\.safetensors is gone while it was being read"),
    ],
)
def test_an_input_goes_bad(models: Path, trouble: Trouble, says: str) -> None:
    good = (models / "b.safetensors").read_bytes()
    told = (models / "b.safetensors").stat()
    with pytest.raises(weft.MergeError, match=says):
        weft.merge_to(recipe(models), models / "out", progress=Meddler(trouble, models / "b.safetensors"))
    assert not (models / "out").exists()
    (models / "b.safetensors").write_bytes(good)
    os.utime(models / "b.safetensors", ns=(told.st_atime_ns, told.st_mtime_ns))
    weft.merge_to(recipe(models), models / "out")  # as it was: what is done is taken up, or done again
    assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], np.full(SIZE, 0.5, np.float32))
    assert sorted(path.name for path in models.iterdir()) == ["a.safetensors", "b.safetensors", "out"]


def interrupt(folder: Path) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weft.merge_to(recipe(folder), folder / "out", progress=Meddler(stop, folder, after=20_000_000), workers=1)


class Listener(Progress):
    """Remembers what it was told of work that was done before."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def continued(self, share: float) -> None:
        self.shares.append(share)


class TestGoingOn:
    def test_the_same_command_goes_on(self, models: Path) -> None:
        interrupt(models)
        listener = Listener()
        report = weft.merge_to(recipe(models), models / "out", progress=listener)
        assert report.continued
        assert 0 < listener.shares[0] < 1
        assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], np.full(SIZE, 0.5, np.float32))

    def test_the_plan_says_so(self, models: Path) -> None:
        interrupt(models)
        (told,) = weft.plan(recipe(models), output=models / "out").warnings
        assert told.startswith("an interrupted merge left ")

    def test_another_recipe_is_refused(self, models: Path) -> None:
        interrupt(models)
        other = recipe(models) | {"parameters": {"normalize": False}}
        with pytest.raises(weft.InputError) as refused:
            weft.merge_to(other, models / "out")
        assert "this one is not the same: the recipe is another (parameters.normalize: True then, False now)" in str(
            refused.value
        )
        assert "--restart" in str(refused.value)
        assert not weft.merge_to(other, models / "out", restart=True).continued

    def test_a_changed_input_is_refused(self, models: Path) -> None:
        interrupt(models)
        os.utime(models / "a.safetensors", ns=(1, 1))
        with pytest.raises(weft.InputError, match=r"model 'a' has changed: .*a\.safetensors"):
            weft.merge_to(recipe(models), models / "out")

    def test_another_version_is_refused(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        interrupt(models)
        monkeypatch.setattr("weft.engine.identity.__version__", "99.0")
        with pytest.raises(weft.InputError, match=r"it was weft .* then and is 99\.0 now"):
            weft.merge_to(recipe(models), models / "out")

    def test_memory_and_workers_may_change(self, models: Path) -> None:
        interrupt(models)
        assert weft.merge_to(recipe(models), models / "out", memory="3MB", workers=1).continued

    def test_inputs_in_memory_leave_nothing(self, models: Path) -> None:
        def stop(_: Path) -> None:
            raise KeyboardInterrupt

        loaded = {"method": "linear", "models": [load_file(models / "a.safetensors")] * 2}
        with pytest.raises(KeyboardInterrupt):
            weft.merge_to(loaded, models / "out", progress=Meddler(stop, models))
        assert sorted(path.name for path in models.iterdir()) == ["a.safetensors", "b.safetensors"]

    def test_what_is_torn_is_done_again(self, models: Path) -> None:
        interrupt(models)
        journal = models / ".out.weft-staging" / "journal"
        journal.write_bytes(journal.read_bytes()[:-3])
        weft.merge_to(recipe(models), models / "out")
        assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], np.full(SIZE, 0.5, np.float32))

    def test_a_file_of_another_size_begins_anew(self, models: Path) -> None:
        interrupt(models)
        os.truncate(models / ".out.weft-staging" / "output" / "model.safetensors", 100)
        weft.merge_to(recipe(models), models / "out")
        assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], np.full(SIZE, 0.5, np.float32))


def test_non_finite_values_met_before_an_interrupt_are_still_an_error(models: Path) -> None:
    """What holds them is not noted as done, so that going on finds them again."""
    spoilt = np.full(SIZE, 1.0, np.float32)
    spoilt[0] = np.nan
    save_file({"w": spoilt}, models / "a.safetensors")
    interrupt(models)
    with pytest.raises(weft.InputError, match="1 value that is not finite"):
        weft.merge_to(recipe(models), models / "out")
    assert not list(models.glob(".out*"))


def test_a_place_that_cannot_be_written(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(models / "new"))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(weft.MergeError, match=r"cannot write .*out: .*new: Read-only file system"):
        weft.merge_to(recipe(models), models / "new" / "out")


def test_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    save_file({"w": np.zeros((3, 5), np.float32), "b": np.zeros(2, np.float16)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(weft.InputError, match=r"cut\.safetensors"):
            weft.merge_to(
                {"method": "linear", "models": [tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"]},
                tmp_path / "out",
            )
    assert not (tmp_path / "out").exists()
