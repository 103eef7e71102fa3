"""Running the command line as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def run(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done
