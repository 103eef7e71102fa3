"""Ctrl-C while a single long step cannot be left."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")

COMMAND = """
import signal, sys, time, typer
from weft.cli import stopping
from weft.cli.reporting import reported
stopping._PATIENCE = 0.05
try:
    with reported(False, lambda: "some is kept"):
        {step}
except typer.Exit as end:
    sys.exit(end.exit_code)
"""
DEAF = """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)
        print("computing", flush=True)
        while True:
            time.sleep(1)
"""
"""Python does not come to answer, as in a call that takes hours."""
LISTENING = """
        print("computing", flush=True)
        while True:
            time.sleep(1)
"""


def begun(step: str) -> subprocess.Popen[str]:
    """A command that computes."""
    code = COMMAND.format(step=step.strip())
    child = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "computing\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_stops_at_once(number: signal.Signals) -> None:
    with begun(DEAF) as child:
        child.send_signal(number)
        assert child.stderr is not None
        assert child.stderr.readline().startswith("stopping when what is being computed is done; once more stops at")
        child.send_signal(number)
        assert child.communicate(timeout=60) == ("", "interrupted\nsome is kept\n")
        assert child.returncode == 130


def test_the_first_is_answered_where_python_can() -> None:
    with begun(LISTENING) as child:
        child.send_signal(signal.SIGINT)
        said, complained = child.communicate(timeout=300)
        assert said == ""
        assert complained.endswith("interrupted\nsome is kept\n")
        assert child.returncode == 130
