"""The command line in this process: starting one that imports torch and transformers takes seconds."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any


def run(folder: Path, *arguments: str, code: int = 0) -> Any:
    """What a command printed, run in a folder."""
    from typer.testing import CliRunner

    from weft.cli.app import app

    with chdir(folder):
        done = CliRunner().invoke(app, list(arguments), env={**os.environ, "COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.stderr
    return done
