"""`weft plan` and `--dry-run`: everything is told, nothing is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import weft
from tests.cli.running import run
from weft.engine.forecast import measured_rate, remember_rate

W = np.zeros((4, 5), np.float32)


def test_what_would_happen_by_rule(models: Path) -> None:
    recipe = "method: ties\nbase: base\nmodels: [a, b]\nrules: [{match: head, use: a}]\noutput: {dtype: float16}\n"
    (models / "r.yaml").write_text(recipe)
    told = json.loads(run(models, "plan", "r.yaml", "--json").stdout)
    assert [(g["rule"], g["action"], g["tensors"], g["bytes"]) for g in told["groups"]] == [
        ("head", "copied from a as float16", 1, 12),
        ("", "ties", 1, 12),
    ]
    assert (told["read_bytes"], told["write_bytes"], told["passes"]) == (3 * 24 + 24, 24, 3)
    assert [described["name"] for described in told["inputs"]] == ["base", "model 'a'", "model 'b'"]


def test_a_dry_run_is_a_plan(models: Path) -> None:
    arguments = ["-m", "linear", "a", "b", "-o", "out"]
    planned, dry = run(models, "plan", *arguments), run(models, "merge", "--dry-run", *arguments)
    free = re.compile(r" of \S+ \S+ free")  # others write to the disk meanwhile
    assert free.sub("", planned.stdout) == free.sub("", dry.stdout)
    assert "linear        the recipe" in planned.stdout
    assert not (models / "out").exists()


def test_a_merge_needs_an_output(models: Path) -> None:
    assert "no output is named" in run(models, "merge", "-m", "linear", "a", code=2).stderr


def test_a_plan_tells_every_problem(models: Path) -> None:
    save_file({"w": W}, models / "a" / "model.safetensors")
    done = run(models, "plan", "-m", "linear", "a", "b", code=2)
    assert "2 problems:" in done.stderr
    assert "tensor 'w' has shape [4, 5] in model 'a' but [2, 3] in model 'b'" in done.stderr
    assert "tensor 'head' is in model 'b' but missing from model 'a'" in done.stderr


def test_tied_names_count_as_tensors_and_once_as_parameters() -> None:
    model = {"embed": W, "head": W}
    told = weft.plan({"method": "linear", "models": [model, {n: t + 1 for n, t in model.items()}]})
    assert [(g.tensors, g.parameters, g.bytes) for g in told.groups] == [(2, 20, 160)]


def test_a_base_that_only_lends_its_formats_is_not_read() -> None:
    told = weft.plan({"method": "linear", "base": {"w": W}, "models": [{"w": W}, {"w": W}]})
    assert told.read_bytes == 2 * W.nbytes


def test_time_is_told_at_the_rate_of_earlier_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    recipe = {"method": "linear", "models": [{"w": W}, {"w": W}]}
    assert weft.plan(recipe).seconds is None
    remember_rate(10**9, 2.0)
    remember_rate(10**3, 50.0)
    assert measured_rate() == 5e8, "a tiny merge tells nothing"
    assert weft.plan(recipe).seconds == 3 * W.nbytes / 5e8
    (tmp_path / "rate.json").write_text("{")
    assert weft.plan(recipe).seconds is None
