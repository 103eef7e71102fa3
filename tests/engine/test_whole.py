"""Tensors that a method sees whole: planned, refused, resumed, and the same bytes whatever the number of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from tests.drawing import StateDict, as_bfloat16, as_bytes
from weft.checkpoints.output import MemorySink
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.engine.whole import is_whole, need
from weft.recipes.loading import make_recipe

METHODS: dict[str, dict[str, Any]] = {
    "tsv": {"method": "tsv"},
    "tsv-eigen": {"method": "tsv", "parameters": {"orthogonalise": "eigen"}},
    "iso_cts": {"method": "iso_cts"},
    "wudi": {"method": "wudi", "parameters": {"iterations": 30}},
    "regmean": {"method": "regmean"},
    "mats": {"method": "mats", "parameters": {"iterations": 20}},
    "kfac": {"method": "mats", "parameters": {"iterations": 20, "objective": "kfac"}},
    "ties-svc": {"method": "ties", "parameters": {"density": 0.5}, "after": "svc"},
    "tensor-ties-svc": {"method": "ties", "parameters": {"density": 0.5, "scope": "tensor"}, "after": "svc"},
    "dare-iso": {"method": "iso_c", "before": {"method": "dare", "drop": 0.3}},
    "della-iso": {"method": "iso_c", "before": {"method": "della"}},
}
SHAPES = {
    **{f"layers.{i}.w": (96, 64 + 8 * i) for i in range(5)},
    "layers.1.b": (64,),
    "embed": (300, 24),
    "conv": (6, 5, 3, 3),
    "text_projection.w": (12, 12),
    "empty": (0, 3),
}


class Listener(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warning(self, text: str) -> None:
        self.heard.append(text)


def state(seed: int) -> StateDict:
    """Numbers that could be weights; models are near each other."""
    base, own = np.random.default_rng(0), np.random.default_rng([seed, 1])
    changed = {n: base.standard_normal(shape) + 0.1 * seed * own.standard_normal(shape) for n, shape in SHAPES.items()}
    return {name: tensor.astype(np.float32) for name, tensor in changed.items()}


def grams(seed: int) -> StateDict:
    rng = np.random.default_rng([seed, 2])
    sides = {n: shape[1] for n, shape in SHAPES.items() if len(shape) == 2 and 0 not in shape}
    sides |= {f"{n}@gradients": shape[0] for n, shape in SHAPES.items() if n in sides}
    drawn = {n: rng.standard_normal((2 * side, side)) for n, side in sides.items()}
    return {n: (t.T @ t / len(t)).astype(np.float32) for n, t in drawn.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "a", "b", "c"]):
        save_file(state(seed), place / f"{name}.safetensors")
        save_file(grams(seed), place / f"g-{name}.safetensors")
    return place


def recipe_of(folder: Path, name: str, **more: Any) -> weft.Recipe:
    parts = {**METHODS[name], **more}
    parameters = dict(parts.pop("parameters", {}))
    if parts["method"] in ("regmean", "mats"):
        parameters["gram"] = {n: f"g-{n}.safetensors" for n in "abc"}
    models = [f"{n}.safetensors" for n in "abc"]
    return make_recipe(
        {"base": "base.safetensors", "models": models, "parameters": parameters, "folder": folder, **parts}
    )


def merged(recipe: weft.Recipe, settings: Settings) -> dict[str, bytes]:
    inputs = open_inputs(recipe)
    plan = make_plan(recipe, inputs)
    sink = MemorySink(plan.outputs, {}, as_torch=False)
    execute(plan, budget(settings, plan.items), sink, Progress())
    inputs.close()
    return as_bytes(sink.tensors())


@pytest.mark.parametrize("name", METHODS)
def test_bytes_do_not_depend_on_how(folder: Path, tmp_path: Path, name: str) -> None:
    """One worker, two or four; much memory or just enough for one tensor; small tiles; on disk; from dicts."""
    recipe = recipe_of(folder, name)
    plainly = merged(recipe, Settings(workers=1))
    assert merged(recipe, Settings(workers=2)) == plainly
    assert merged(recipe, Settings(workers=4, tile=1024)) == plainly
    inputs = open_inputs(recipe)
    largest = max(need(work) for work in make_plan(recipe, inputs).works if is_whole(work))
    inputs.close()
    if recipe.method != "ties":  # whose tables of selection need more than the matrices here
        least = (3 if recipe.before else 2) * 10**6  # three workers hold tiles of the other tensors
        assert merged(recipe, Settings(max(largest, least), workers=3)) == plainly
    weft.merge_to(recipe, tmp_path / "out.safetensors", workers=2)
    assert as_bytes(load_file(tmp_path / "out.safetensors")) == plainly


@pytest.mark.parametrize("name", ["tsv", "iso_c", "mats"])
def test_large_matrices_do_not_depend_on_the_number_of_threads(name: str) -> None:
    """So large that the library would divide them among threads, if it had several."""
    import torch

    rng = np.random.default_rng(0)
    states = [{n: rng.standard_normal((700, 500)).astype(np.float32) for n in "ab"} for _ in range(3)]
    options: dict[str, Any] = {"base": states[0], "method": name}
    if name == "mats":
        options |= {"gram": [{"a": np.cov(s["a"].T).astype(np.float32)} for s in states[1:]], "iterations": 5}
    before = torch.get_num_threads()
    made = []
    try:
        for threads, workers in ((1, 1), (4, 1), (2, 3)):
            torch.set_num_threads(threads)
            made.append(as_bytes(weft.merge(states[1:], workers=workers, **options)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_formats_are_rounded_once(dtype: str) -> None:
    """The float32 result of the same numbers, rounded to the nearest, ties to even."""
    import ml_dtypes

    narrow = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    states = [{n: t.astype(narrow) for n, t in state(seed).items()} for seed in range(3)]
    wide = [{n: t.astype(np.float32) for n, t in s.items()} for s in states]
    ours = weft.merge(states[1:], base=states[0], method="tsv")
    exact = weft.merge(wide[1:], base=wide[0], method="tsv")
    assert as_bytes(ours) == as_bytes({n: t.astype(narrow) for n, t in exact.items()})


def test_torch_tensors_stay_torch_tensors() -> None:
    import torch

    states = [{n: torch.from_numpy(t).bfloat16() for n, t in state(seed).items()} for seed in range(3)]
    ours = weft.merge(states[1:], base=states[0], method="iso_c")
    plain = [as_bfloat16({n: t.float().numpy() for n, t in s.items()}) for s in states]
    exact = weft.merge(plain[1:], base=plain[0], method="iso_c")
    assert {t.dtype for t in ours.values()} == {torch.bfloat16}
    assert {n: t.view(torch.int16).numpy().tobytes() for n, t in ours.items()} == as_bytes(exact)


def test_only_matrices_are_seen_whole(folder: Path) -> None:
    recipe = recipe_of(folder, "tsv")
    inputs = open_inputs(recipe)
    whole = {work.spec.name for work in make_plan(recipe, inputs).works if is_whole(work)}
    inputs.close()
    assert whole == {*(f"layers.{i}.w" for i in range(5)), "embed"}


def test_what_does_not_fit_into_memory_is_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(weft.InputError) as caught:
        weft.merge_to(recipe_of(folder, "tsv"), tmp_path / "out", memory="1MB", workers=1)
    (problem,) = caught.value.problems
    assert problem.what.startswith("tensor 'layers.4.w' (float32 [96, 96]) needs ")
    assert problem.what.endswith(" MB of memory to be seen whole, as method tsv does, and the memory is 1.0 MB")
    assert problem.remedy.startswith("allow at least ")
    assert not list(tmp_path.iterdir())
    enough = problem.remedy.split()[3]
    weft.merge_to(recipe_of(folder, "tsv"), tmp_path / "out", memory=enough, workers=1)


def test_the_plan_says_what_memory_it_takes(folder: Path) -> None:
    recipe = recipe_of(folder, "tsv")
    one, two = weft.plan(recipe, workers=1), weft.plan(recipe, workers=2)
    assert one.whole_memory > 0
    assert two.whole_memory == 2 * one.whole_memory
    assert one.peak_memory > one.whole_memory
    assert one.seconds is None
    assert {(group.action, group.tensors) for group in one.groups} == {("tsv, whole", 6), ("tsv", 4)}
    assert weft.plan(recipe_of(folder, "regmean")).read_bytes > one.read_bytes, "Gram matrices are read too"


def test_what_is_planned_to_move_is_moved(folder: Path, tmp_path: Path) -> None:
    class Counter(Progress):
        total = moved = 0

        def phase(self, name: str, total: int) -> None:
            self.total += total

        def advance(self, count: int) -> None:
            self.moved += count

    for name in ("tsv", "regmean", "kfac"):
        counter = Counter()
        weft.merge_to(recipe_of(folder, name), tmp_path / name, progress=counter, workers=2)
        assert counter.moved == counter.total > 0


KILLED = """
import json, os, signal, sys
import weft
from weft.checkpoints.staging import Staging
from weft.engine import journal

recipe, out, last = json.loads(sys.argv[1])
journal._INTERVAL = -1.0
real, count = Staging.write, 0


def write(self, name, start, values):
    global count
    real(self, name, start, values)
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)


Staging.write = write
report = weft.merge_to(recipe, out, workers=1)
print(json.dumps([report.continued, list(report.warnings)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")
@pytest.mark.parametrize("name", ["mats", "ties-svc"])
@pytest.mark.parametrize("last", [3, 5])
def test_killed_it_goes_on_and_ends_in_the_same_bytes(folder: Path, tmp_path: Path, name: str, last: int) -> None:
    """What was told of tensors that were done before is told again."""
    recipe = recipe_of(folder, name)
    path = tmp_path / "recipe.json"
    parts = json.loads(json.dumps(recipe.model_dump(mode="json")))
    parts["folder"] = str(folder)
    parts["models"] = [str(folder / entry["path"]) for entry in parts["models"]]

    def run(out: str, strike: int) -> subprocess.CompletedProcess[str]:
        path.write_text(json.dumps([parts, str(tmp_path / out), strike]))
        command = [sys.executable, "-c", KILLED, path.read_text()]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    plainly = run("plainly", 0)
    assert plainly.returncode == 0, plainly.stderr
    assert run("out", last).returncode == -signal.SIGKILL
    again = run("out", 0)
    assert again.returncode == 0, again.stderr
    continued, warnings = json.loads(again.stdout)
    assert continued
    assert warnings == json.loads(plainly.stdout)[1]
    assert (name == "mats") == any("residual" in text for text in warnings)
    files = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("plainly", "out")]
    assert files[0] == files[1]


def test_what_was_begun_on_another_device_is_not_taken_up(folder: Path, tmp_path: Path) -> None:
    """The last bits may differ, and so device and torch are part of what a merge is made of."""
    weft.merge_to(recipe_of(folder, "tsv"), tmp_path / "out")
    environment = json.loads((tmp_path / "out" / "weft.lock.json").read_text())["environment"]
    assert environment["device"] == "cpu"
    assert environment["torch"]
    weft.merge_to(make_recipe({"method": "linear", "models": ["a.safetensors"], "folder": folder}), tmp_path / "other")
    assert "torch" not in json.loads((tmp_path / "other" / "weft.lock.json").read_text())["environment"]


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(weft.InputError, match=f"device '{device}' cannot be used: "):
        weft.plan(recipe_of(folder, "tsv"), device=device)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for module in [m for m in sys.modules if m == "torch" or m.startswith("weft.matrices")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in METHODS:
        with pytest.raises(weft.InputError) as caught:
            weft.plan(recipe_of(folder, name))
        (problem,) = caught.value.problems
        assert problem.what.endswith(" computes with torch, which is not installed")
        assert problem.remedy == 'pip install "weft[torch]"'


def spoilt(value: float) -> tuple[StateDict, list[StateDict]]:
    base, *tuned = (state(seed) for seed in range(3))
    tuned[0]["layers.2.w"][3, 5] = value
    return base, tuned


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    base, tuned = spoilt(value)
    with pytest.raises(
        weft.InputError, match=r"tensor 'layers.2.w' of model 'model_0' holds 1 value that is not finite"
    ):
        weft.merge(tuned, base=base, method="tsv")


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_what_is_not_finite_is_merged_by_element_if_it_must(policy: Any) -> None:
    base, tuned = spoilt(np.nan)
    listener = Listener()
    ours = weft.merge(tuned, base=base, method="tsv", on_nonfinite=policy, progress=listener)["layers.2.w"]
    mean = (tuned[0]["layers.2.w"] + tuned[1]["layers.2.w"]) / 2
    assert np.isnan(ours[3, 5])
    np.testing.assert_allclose(np.nan_to_num(ours), np.nan_to_num(mean), rtol=1e-5, atol=1e-6)
    text = "1 tensors hold values that are not finite, so no matrix can be taken apart: merged by element"
    assert text in listener.heard


def test_constant_masks_are_copied() -> None:
    base, *tuned = (state(seed) | {"mask": np.triu(np.full((8, 8), -np.inf, np.float32))} for seed in range(3))
    plain = [{name: tensor for name, tensor in s.items() if name != "mask"} for s in (base, *tuned)]
    for options in ({"method": "tsv"}, {"method": "ties", "after": "svc"}):
        ours = weft.merge(tuned, base=base, **options)
        assert np.array_equal(ours.pop("mask"), base["mask"])
        assert as_bytes(ours) == as_bytes(weft.merge(plain[1:], base=plain[0], **options))


def test_tied_tensors_are_one(tmp_path: Path) -> None:
    states = [state(seed) for seed in range(3)]
    for s in states:
        s["head"] = s["embed"]
    ours = weft.merge(states[1:], base=states[0], method="iso_c")
    assert ours["head"] is ours["embed"]
    gram = grams(1)
    ours = weft.merge(states[1:], method="regmean", gram=[{"head": gram["embed"]}] * 2)
    exact = weft.merge(states[1:], method="regmean", gram=[{"embed": gram["embed"]}] * 2)
    assert np.array_equal(ours["embed"], exact["embed"]), "by whichever of its names"


def test_a_model_that_lacks_a_matrix_is_no_task() -> None:
    base, *tuned = (state(seed) for seed in range(4))
    exact = weft.merge(tuned[:2], base=base, method="tsv")["embed"]
    del tuned[2]["embed"]
    ours = weft.merge(tuned, base=base, method="tsv", on_missing="skip-model")
    assert np.array_equal(ours["embed"], exact)
    copied = weft.merge(tuned, base=base, method="tsv", on_missing="base")
    assert np.array_equal(copied["embed"], base["embed"])


@pytest.mark.parametrize("options", [{"method": "svc"}, {"method": "task_arithmetic", "after": "svc"}], ids=str)
def test_what_is_no_task_does_not_count_in_a_correction(options: Any) -> None:
    base, *tuned = (state(seed) for seed in range(4))
    exact = weft.merge(tuned[:2], base=base, **options)["embed"]
    weightless = weft.merge(tuned, base=base, weight=[1, 1, 0], **options)["embed"]
    assert np.array_equal(weightless, exact)
    nobody = weft.merge(tuned, base=base, weight=0, **options)["embed"]
    assert np.array_equal(nobody, base["embed"])
    del tuned[2]["embed"]
    assert np.array_equal(weft.merge(tuned, base=base, on_missing="skip-model", **options)["embed"], exact)


def test_rules_choose_what_comes_after() -> None:
    base, *tuned = (state(seed) for seed in range(3))
    options: dict[str, Any] = {"base": base, "method": "task_arithmetic", "scale": 0.5}
    plain, corrected = weft.merge(tuned, **options), weft.merge(tuned, **options, after="svc")
    ours = weft.merge(tuned, **options, after="svc", rules=[{"match": "layers.1.*", "after": "none"}])
    for name in base:
        assert np.array_equal(ours[name], (plain if name.startswith("layers.1.") else corrected)[name])
    assert not np.array_equal(plain["layers.1.w"], corrected["layers.1.w"])
