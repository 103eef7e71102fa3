"""The same bytes for every tile size, number of workers, budget and place; drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import weft
from tests.drawing import as_bytes, fisher_of
from weft.checkpoints.output import MemorySink
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.kernels.folds import BLOCK
from weft.recipes.loading import make_recipe

SHAPES = {"embed": (300, 211), "w.1": (97, 50), "w.2": (2 * BLOCK + 3,), "w.3": (BLOCK,), "tiny": (3,)}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.3, 0.5, 0.7]},
    "task_arithmetic": {"weight": [1, -0.5, 2]},
    "ties": {},
    "ties-tensor": {"scope": "tensor"},
    "ties-norm": {"trim": "norm", "density": 0.7, "elect": "normmass"},
    "ties-deviation": {"trim": "deviation", "elect": "normfrac", "combine": "median", "scope": "tensor"},
    "fisher": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three fine-tunes of mixed formats, and a Fisher for each, on disk."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    base = {n: rng.standard_normal(s).astype(np.float16 if n == "w.1" else np.float32) for n, s in SHAPES.items()}
    save_file(base, folder / "base.safetensors")
    for name in "abc":
        tuned = {n: (t + np.round(rng.standard_normal(t.shape) * 4) / 64).astype(t.dtype) for n, t in base.items()}
        save_file(tuned, folder / f"{name}.safetensors")
        save_file(
            {n: f.astype(np.float32) for n, f in fisher_of(ord(name), base).items()}, folder / f"f-{name}.safetensors"
        )
    return folder


def recipe_of(folder: Path, name: str) -> weft.Recipe:
    method = name.partition("-")[0]
    parameters = dict(METHODS[name])
    if method == "fisher":
        parameters["fisher"] = {n: f"f-{n}.safetensors" for n in "abc"}
    models = [f"{n}.safetensors" for n in "abc"]
    return make_recipe(
        {"method": method, "base": "base.safetensors", "models": models, "parameters": parameters, "folder": folder}
    )


def merged(recipe: weft.Recipe, settings: Settings) -> dict[str, bytes]:
    inputs = open_inputs(recipe)
    plan = make_plan(recipe, inputs)
    sink = MemorySink(plan.outputs, {}, as_torch=False)
    execute(plan, budget(settings, plan.items), sink, Progress())
    inputs.close()
    return as_bytes(sink.tensors())


@pytest.fixture(scope="module")
def plainly(folder: Path) -> dict[str, dict[str, bytes]]:
    """What one worker with everything in one tile gives."""
    return {name: merged(recipe_of(folder, name), Settings(workers=1, tile=1 << 22)) for name in METHODS}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(METHODS)),
    tile=st.sampled_from([0, BLOCK, 2 * BLOCK, 5 * BLOCK]),
    workers=st.integers(1, 5),
    memory=st.sampled_from([80 * 10**6, 160 * 10**6, 2 * 10**9]),
)
def test_bytes_do_not_depend_on_how(
    folder: Path, plainly: dict[str, dict[str, bytes]], name: str, tile: int, workers: int, memory: int
) -> None:
    assert merged(recipe_of(folder, name), Settings(memory, workers, tile)) == plainly[name]


@pytest.mark.parametrize("name", METHODS)
def test_disk_and_memory_agree(folder: Path, plainly: dict[str, dict[str, bytes]], name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    for out in (tmp_path / "out", tmp_path / "out.safetensors"):
        weft.merge_to(recipe_of(folder, name), out)
        file = out / "model.safetensors" if out.is_dir() else out
        file = file if file.exists() else next(out.glob("*.safetensors"))
        assert as_bytes(load_file(file)) == plainly[name]


def test_dicts_of_tensors_give_what_files_give(folder: Path, plainly: dict[str, dict[str, bytes]]) -> None:
    from safetensors.numpy import load_file

    base, *tuned = (load_file(folder / f"{n}.safetensors") for n in ("base", "a", "b", "c"))
    assert as_bytes(weft.merge(tuned, base=base, method="ties")) == plainly["ties"]


def test_the_order_of_tensors_in_a_file_does_not_matter(folder: Path, plainly: dict[str, dict[str, bytes]]) -> None:
    from safetensors.numpy import load_file

    base, *tuned = (load_file(folder / f"{n}.safetensors") for n in ("base", "a", "b", "c"))
    turned = [dict(reversed(t.items())) for t in tuned]
    for name in ("ties", "ties-norm"):
        ours = weft.merge(turned, base=base, method="ties", **METHODS[name])
        assert as_bytes(ours) == {n: plainly[name][n] for n in ours}
