"""Opening something dangerous in a process of its own, under limits of memory and time.

Only Linux tells how much memory a process came to need; elsewhere tests that ask are skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESSES = Path("/proc/self/clear_refs")
MEGABYTE = 1 << 20

_PROGRAM = """
import json, resource, sys, time
sys.path[:0] = [{root!r}, {source!r}]
{imports}
from weft.errors import WeftError

def peak():
    # most memory since the last reset
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
own = peak()
address, seconds = {address}, {seconds}
resource.setrlimit(resource.RLIMIT_AS, (address, address))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
kind, said = "passed", ""
try:
    {body}
except WeftError as error:
    kind, said = type(error).__name__, str(error)
print("\\n" + json.dumps([kind, said, peak() - own]))
"""


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        kind: `passed`, or the name of Weft's error.
        said: the error's message.
        memory: bytes that the process came to need beyond what its imports need.
    """

    kind: str
    said: str
    memory: int


def limited(body: str, *arguments: object, imports: str = "", seconds: int = 60, address: int = 6 << 30) -> Outcome:
    """Run a statement in a process of its own.

    Args:
        body: the statement; `sys.argv[1:]` are the arguments.
        imports: what it needs, imported before memory is counted.
        seconds: of processor time, after which the process is killed.
        address: bytes of address space, torch's libraries and threads included.
    """
    if not PROCESSES.exists():
        pytest.skip("the kernel does not tell here how much memory a process needs")
    program = _PROGRAM.format(
        root=str(ROOT), source=str(ROOT / "src"), imports=imports, body=body, seconds=seconds, address=address
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=10 * seconds,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return Outcome(*json.loads(done.stdout.splitlines()[-1]))


def opened(path: Path, torch: bool = True, **limits: int) -> Outcome:
    """Open a checkpoint so, and close it."""
    imports = f"{'import torch' if torch else ''}\nfrom weft.checkpoints.opening import open_checkpoint"
    return limited("open_checkpoint(sys.argv[1]).close()", path, imports=imports, **limits)


def loaded(path: Path, **limits: int) -> Outcome:
    """Load a recipe so."""
    return limited("load_recipe(sys.argv[1])", path, imports="from weft.recipes.loading import load_recipe", **limits)
