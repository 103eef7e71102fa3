"""The same bytes whoever merges, wherever, and however the models are stored: for every registered method.

`test_same_bytes.py` draws tiles, budgets and threads at random for chosen options; here is the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.drawing import as_bytes
from tests.long.cases import Model
from tests.long.saving import FORMS, given, read_safetensors, write_safetensors
from tests.long.variants import SIZES, VARIANTS, as_many, checkpoints, parameters
from tests.test_replay import digest
from weft.checkpoints.output import MemorySink
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.kernels.folds import BLOCK
from weft.recipes.loading import make_recipe

ROOT = Path(__file__).parents[2]
TIED = {"z.weight": "a.weight"}
each_variant = pytest.mark.parametrize(("name", "way"), VARIANTS)


def models(dtype: str = "mixed") -> list[Model]:
    return checkpoints(SIZES["tiles"] | SIZES["small"], dtype, TIED)


def parts_of(name: str, way: str, stored: Sequence[Model], folder: Path) -> dict[str, Any]:
    """A recipe over these models, which are written to the folder."""
    taken = as_many(name, list(stored))
    base, *tuned = (given(model, folder) for model in taken)
    entries = [{"path": path, "name": model.name} for path, model in zip(tuned, taken[1:], strict=True)]
    chosen = parameters(name, way, taken)
    return {"method": name, "base": base, "models": entries, "parameters": chosen, "folder": folder}


def in_memory(parts: dict[str, Any]) -> dict[str, bytes]:
    merged = weft.merge(parts["models"], base=parts["base"], method=parts["method"], **parts["parameters"])
    return {name: bits(tensor) for name, tensor in merged.items()}


def bits(tensor: Any) -> bytes:
    import torch

    if isinstance(tensor, torch.Tensor):
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return as_bytes({"": tensor})[""]


def formed(form: str, stored: Sequence[Model]) -> list[Model]:
    return [replace(model, form=form) for model in stored]


@pytest.fixture(scope="module")
def plainly() -> dict[tuple[str, str], dict[str, bytes]]:
    """From dicts of arrays, in memory."""
    made = formed("numpy", models())
    return {variant: in_memory(parts_of(*variant, made, Path())) for variant in VARIANTS}


@each_variant
def test_threads_tiles_and_budgets(name: str, way: str, plainly: Any, tmp_path: Path) -> None:
    recipe = make_recipe(parts_of(name, way, formed("folder", models()), tmp_path))
    for workers in (1, 2, 3, 4):
        for tile, memory in ((0, 2 * 2**30), (BLOCK, 2 * 2**30), (3 * BLOCK, 2 * 2**30), (0, 64 * 10**6)):
            inputs = open_inputs(recipe)
            plan = make_plan(recipe, inputs)
            aliases = {alias: item.spec.name for item in plan.items for alias in item.aliases}
            sink = MemorySink(plan.outputs, aliases, as_torch=False)
            execute(plan, budget(Settings(memory, workers, tile), plan.items), sink, Progress())
            inputs.close()
            assert as_bytes(sink.tensors()) == plainly[name, way], (workers, tile, memory)


@each_variant
@pytest.mark.parametrize("form", FORMS)
def test_formats_of_models(name: str, way: str, form: str, plainly: Any, tmp_path: Path) -> None:
    """One file, a folder, shards, an index, pickles, dicts of arrays and of torch tensors."""
    parts = parts_of(name, way, formed(form, models()), tmp_path)
    assert in_memory(parts) == plainly[name, way]
    weft.merge_to(parts, tmp_path / "out.safetensors", memory="64MB", workers=3)
    assert as_bytes(read_safetensors(tmp_path / "out.safetensors")) == plainly[name, way]


@each_variant
def test_order_of_tensors_in_a_file(name: str, way: str, plainly: Any, tmp_path: Path) -> None:
    """Also that of the base's, and of names that are one tensor."""
    turned = [replace(m, tensors=dict(reversed(m.tensors.items()))) for m in formed("file", models())]
    merged = in_memory(parts_of(name, way, turned, tmp_path))
    assert merged == {tensor: plainly[name, way][tensor] for tensor in merged}
    assert merged.keys() == plainly[name, way].keys()


@each_variant
def test_order_and_names_of_the_files_of_a_folder(name: str, way: str, plainly: Any, tmp_path: Path) -> None:
    """Shards that were written in either order, and cut in either way."""
    merged, taken = [], as_many(name, models())
    for k, (cut, order) in enumerate([(2, 1), (2, -1), (5, 1)]):
        places = [scattered(model, tmp_path / f"{k}-{model.name}", cut, order) for model in taken]
        entries = [{"path": place, "name": m.name} for place, m in zip(places[1:], taken[1:], strict=True)]
        chosen = parameters(name, way, taken)
        merged.append(in_memory({"method": name, "base": places[0], "models": entries, "parameters": chosen}))
    assert all(one == plainly[name, way] for one in merged)


def scattered(model: Model, place: Path, cut: int, order: int) -> Path:
    """A folder of files with an index, made in this order."""
    place.mkdir()
    files = {f"model-{k + 1:05}-of-{cut:05}.safetensors": list(model.tensors)[k::cut] for k in range(cut)}
    for file, names in list(files.items())[::order]:
        write_safetensors(place / file, {name: model.tensors[name] for name in names[::order]})
    where = {name: file for file, names in files.items() for name in names}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return place


def all_digests() -> dict[str, str]:
    """Of every variant, in this process."""
    made = formed("numpy", models())
    return {
        f"{name}/{way}": digest(weft.merge(p["models"], base=p["base"], method=name, **p["parameters"]))
        for name, way in VARIANTS
        for p in [parts_of(name, way, made, Path())]
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_fresh_processes_with_other_hash_seeds(seed: str) -> None:
    """Strings hash otherwise there, so sets and whatever else has no order come in another."""
    program = "import json; from tests.engine.test_determinism import all_digests; print(json.dumps(all_digests()))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(done.stdout) == all_digests()


def stands_alone(name: str, way: str) -> bool:
    """Whether nothing that a tensor depends on comes from the others."""
    made = checkpoints(SIZES["small"], "float32")
    kind = weft.method(name)
    method = kind.resolved([m.name for m in made[1:]], common=parameters(name, way, made))
    return not method.program().is_about_the_model


@pytest.mark.parametrize(("name", "way"), [variant for variant in VARIANTS if stands_alone(*variant)])
def test_another_tensor_changes_no_other(name: str, way: str) -> None:
    made = formed("numpy", checkpoints(SIZES["small"], "float32"))
    more = formed("numpy", checkpoints(SIZES["small"] | {"y.weight": (9, 4)}, "float32"))
    one, other = (in_memory(parts_of(name, way, some, Path())) for some in (made, more))
    assert one == {tensor: other[tensor] for tensor in one}
