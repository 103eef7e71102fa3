"""The memory budget holds, whatever the size of the model or of one tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.layout import lay_out
from weft.checkpoints.staging import staging
from weft.kernels.dtypes import BFLOAT16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]

INTERPRETER = 350e6
"""The fixed share: interpreter, libraries, machine code."""

PROGRAM = """
import json, re, sys, weft
recipe, out, memory = json.loads(sys.argv[1])
weft.merge_to(recipe, out, memory=memory)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def write(folder: Path, seed: int, elements: int) -> None:
    """One tensor that is larger than the budget, and a few small ones."""
    specs = [
        TensorSpec("embed", BFLOAT16, (elements // 512, 512)),
        *(TensorSpec(f"w{i}", BFLOAT16, (999,)) for i in range(9)),
    ]
    rng = np.random.default_rng(seed)
    with staging(folder, lay_out(specs, "model", 10**10, {"format": "pt"})) as area:
        for spec in specs:
            for start in range(0, spec.size, 1 << 22):
                count = min(1 << 22, spec.size - start)
                area.write(spec.name, start, rng.integers(0x3C00, 0x3C80, count, np.uint16))
        area.commit(overwrite=False)


@pytest.mark.parametrize(("scope", "memory"), [("model", 64_000_000), ("tensor", 64_000_000), ("model", 500_000_000)])
def test_ties_stays_within_its_budget(tmp_path: Path, scope: str, memory: int) -> None:
    """Four times 400 MB in, 400 MB out."""
    for seed, name in enumerate(["base", "a", "b", "c"]):
        write(tmp_path / name, seed, 200_000_256)
    models = [str(tmp_path / n) for n in "abc"]
    recipe = {"method": "ties", "base": str(tmp_path / "base"), "models": models, "parameters": {"scope": scope}}
    argument = json.dumps([recipe, str(tmp_path / "out"), memory])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True)
    assert float(done.stdout) < memory + INTERPRETER
