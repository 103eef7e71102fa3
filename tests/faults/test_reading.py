"""A disk that fails as inputs are read from it, at any reading; and one that gives less than was asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import weft
from weft.engine import settings

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="reads are made with other calls here")

METHODS = {
    "linear": {"method": "linear"},
    "ties": {"method": "ties", "base": "base", "parameters": {"density": 0.4}},
    "ties by tensor": {"method": "ties", "base": "base", "parameters": {"density": 0.4, "scope": "tensor"}},
    "copies": {"method": "linear", "rules": [{"match": "*", "use": "one"}]},
}


class Disk:
    """Counts readings.

    Args:
        fails_at: which one fails, counted from 1; 0 for none.
        most: bytes that one reading gives at most.
    """

    def __init__(self, fails_at: int = 0, most: int = 1 << 30) -> None:
        self._real: Callable[..., int] = os.preadv
        self._fails_at, self._most = fails_at, most
        self.count = 0

    def __call__(self, descriptor: int, buffers: list[memoryview], position: int) -> int:
        self.count += 1
        if self.count == self._fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._real(descriptor, [buffers[0][: self._most]], position)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "_LONGEST_TILE", settings.BLOCK)
    generator = np.random.default_rng(5)
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
        shapes = {"a": (3, 9000), "b": (17,), "c": (21_001,)}
        tensors = {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
        save_file(tensors, tmp_path / name / "model.safetensors")
    return tmp_path


def merge(folder: Path, method: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> bytes:
    parts: dict[str, Any] = {"models": [{"path": "one"}, {"path": "two"}], "folder": folder, **METHODS[method]}
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", disk)
        weft.merge_to(parts, folder / "out.safetensors", workers=2)
    content = (folder / "out.safetensors").read_bytes()
    (folder / "out.safetensors").unlink()
    return content


@pytest.mark.parametrize("method", METHODS)
def test_every_reading_may_fail(models: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    counting = Disk()
    expected = merge(models, method, counting, monkeypatch)
    assert counting.count
    for number in range(1, counting.count + 1):
        disk = Disk(fails_at=number)
        with pytest.raises(weft.MergeError) as told:
            merge(models, method, disk, monkeypatch)
        assert "model.safetensors: cannot read tensor '" in str(told.value)
        assert str(told.value).endswith(": Input/output error")
        assert not (models / "out.safetensors").exists()
        assert merge(models, method, Disk(), monkeypatch) == expected
    assert sorted(path.name for path in models.iterdir()) == ["base", "one", "two"]


@pytest.mark.parametrize("method", METHODS)
def test_readings_that_give_less_are_gone_on_with(models: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    expected = merge(models, method, Disk(), monkeypatch)
    assert merge(models, method, Disk(most=1001), monkeypatch) == expected
