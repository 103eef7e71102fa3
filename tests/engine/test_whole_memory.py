"""What a plan says a tensor takes that is seen whole is what it takes at most, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
]

PROGRAM = """
import ctypes, json, re, sys
import weft
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.recipes.loading import make_recipe


class Nowhere:
    def write(self, name, start, values):
        pass

    def write_whole(self, names, sizes, values):
        pass


def resident(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024


def run(folder):
    recipe = make_recipe({**json.loads(sys.argv[1]), "folder": folder})
    plan = make_plan(recipe, open_inputs(recipe))
    divided = budget(Settings(memory=2**33, workers=1, tile=16384), plan.items)
    execute(plan, divided, Nowhere(), Progress())
    return divided.whole


run(sys.argv[2])  # compiles, and fills what libraries keep
ctypes.CDLL("libc.so.6").malloc_trim(0)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
planned = run(sys.argv[3])
print(planned, resident("VmHWM") - before)
"""

METHODS: dict[str, dict[str, Any]] = {
    "tsv": {"method": "tsv"},
    "tsv in float64": {"method": "tsv", "parameters": {"double": True}},
    "iso_cts": {"method": "iso_cts"},
    "wudi": {"method": "wudi", "parameters": {"iterations": 3}},
    "svc": {"method": "ties", "after": "svc"},
    "after dare": {"method": "iso_c", "before": "dare"},
    "regmean": {"method": "regmean"},
    "kfac": {"method": "mats", "parameters": {"iterations": 3, "objective": "kfac"}},
}


def write(folder: Path, shape: tuple[int, int]) -> str:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in ("base", "a", "b", "c"):
        save_file({"w": rng.standard_normal(shape).astype(np.float32)}, folder / f"{name}.safetensors")
        tokens = [rng.standard_normal((side, side)).astype(np.float32) for side in shape]
        grams = {"w": tokens[1].T @ tokens[1], "w@gradients": tokens[0].T @ tokens[0]}
        save_file(grams, folder / f"g-{name}.safetensors")
    return str(folder)


@pytest.mark.parametrize("shape", [(900, 600), (250, 1200)])
@pytest.mark.parametrize("name", METHODS)
def test_the_memory_that_is_planned_is_enough(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    recipe = {"base": "base.safetensors", "models": [f"{n}.safetensors" for n in "abc"], **METHODS[name]}
    if recipe["method"] in ("regmean", "mats"):
        recipe["parameters"] = {**recipe.get("parameters", {}), "gram": {n: f"g-{n}.safetensors" for n in "abc"}}
    small, large = write(tmp_path / "small", (64, 48)), write(tmp_path / "large", shape)
    command = [sys.executable, "-c", PROGRAM, json.dumps(recipe), small, large]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    planned, used = map(int, done.stdout.split())
    assert planned > 10**7
    assert used < planned
    assert used > planned / 5, "a forecast that is far off keeps people from merging"
