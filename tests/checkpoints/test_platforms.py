"""A merge in a process whose Python lacks what Windows and macOS lack gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from weft.checkpoints.locking import locked
from weft.errors import InputError

pytestmark = pytest.mark.slow

LACKING = {
    "windows": "preadv pwritev pread pwrite posix_fallocate posix_fadvise sched_getaffinity fchmod O_NONBLOCK",
    "macos": "preadv pwritev posix_fallocate posix_fadvise sched_getaffinity copy_file_range",
}

WITHOUT = """
import os, shutil, sys
for name in sys.argv.pop(1).split():
    if hasattr(os, name):
        delattr(os, name)
    assert not hasattr(os, name)
if "windows" in sys.argv.pop(1):
    sys.modules["fcntl"] = sys.modules["resource"] = None
import weft.checkpoints.swap
weft.checkpoints.swap._exchanged = lambda one, other: False  # two folders cannot be exchanged in one step
from weft.cli.app import main
main()
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for k, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(k)
        (tmp_path / name).mkdir()
        tensors = {f"w{i}": rng.standard_normal((300, 70 + i)).astype(np.float32) for i in range(12)}
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


def merge(folder: Path, output: str, system: str = "linux", *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ["merge", "-m", "ties", "-b", "base", "a", "b", "-o", output, "--workers", "4", "--memory", "64MB"]
    begin = ["-m", "weft"] if system == "linux" else ["-c", WITHOUT, LACKING[system], system]
    command = [sys.executable, *begin, *arguments, *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


@pytest.mark.parametrize("system", LACKING)
def test_the_same_bytes_with_less(models: Path, system: str) -> None:
    for output, where in (("plenty", "linux"), ("little", system)):
        done = merge(models, output, where)
        assert done.returncode == 0, done.stderr
    for file in ("model.safetensors", "config.json"):
        assert (models / "plenty" / file).read_bytes() == (models / "little" / file).read_bytes()
    done = merge(models, "little", system, "--overwrite")
    assert done.returncode == 0, done.stderr
    left = [path.name for path in models.iterdir() if path.name.startswith(".")]
    assert left == []


def test_macos_locks_as_linux_does(models: Path) -> None:
    with locked(models / "out"):
        done = merge(models, "out", "macos")
        assert done.returncode == 2
        assert "another process is writing out" in done.stderr
        with pytest.raises(InputError, match="another process is writing"), locked(models / "out"):
            pass
