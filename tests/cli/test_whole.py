"""Methods that see whole tensors, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import weft
from tests.cli.running import run


def test_a_correction_after_a_method(models: Path) -> None:
    """What was written is recorded, and can be done again."""
    arguments = ["-m", "task_arithmetic", "-b", "base", "a", "b", "--after", "svc", "-p", "after.alpha=0.5"]
    done = run(models, "merge", *arguments, "-o", "out", "-p", "scale=0.5")
    assert done.stdout.startswith("out  task_arithmetic, ")
    states = [load_file(models / name / "model.safetensors") for name in ("base", "a", "b")]
    after = {"method": "svc", "alpha": 0.5}
    expected = weft.merge(states[1:], base=states[0], method="task_arithmetic", scale=0.5, after=after)
    merged = load_file(models / "out" / "model.safetensors")
    assert all(np.array_equal(merged[name], expected[name]) for name in expected)
    record = (models / "out" / "weft_recipe.yaml").read_text()
    assert "after:\n  method: svc\n  alpha: 0.5\n" in record
    run(models, "merge", "--reproduce", "out", "-o", "again")


def test_a_plan_says_what_whole_tensors_take(models: Path) -> None:
    told = run(models, "plan", "-m", "iso_c", "-b", "base", "a", "b").stdout
    assert "iso_c, whole" in told
    assert " of it for whole tensors" in told
    assert "unknown: matrices take time of their own" in told
    parsed = json.loads(run(models, "plan", "-m", "iso_c", "-b", "base", "a", "b", "--json").stdout)
    assert parsed["whole_memory"] > 0
    assert parsed["seconds"] is None


def test_a_device_that_is_not_there(models: Path) -> None:
    done = run(models, "merge", "-m", "iso_c", "-b", "base", "a", "b", "-o", "out", "--device", "cuda:77", code=2)
    assert "device 'cuda:77' cannot be used: " in done.stderr
    assert not (models / "out").exists()


def test_parameters_of_a_step_that_is_not_there(models: Path) -> None:
    done = run(models, "merge", "-m", "linear", "a", "b", "-o", "out", "-p", "after.alpha=0.5", code=2)
    assert "-p after.alpha: there is no step after the method" in done.stderr
    assert "add --after NAME" in done.stderr
