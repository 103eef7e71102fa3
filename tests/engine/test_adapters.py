"""Adapters as inputs of a merge: as if the merged models lay on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import weft

RNG = np.random.default_rng(0)
BASE = {
    "layers.0.q.weight": RNG.standard_normal((24, 16)).astype(np.float16),
    "layers.0.k.weight": RNG.standard_normal((8, 16)).astype(np.float16),
    "norm.weight": np.ones(16, np.float16),
}


def adapter(folder: Path, seed: int, rank: int, targets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Write an adapter as PEFT does; the models that it stands for, in float64."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    tensors: dict[str, np.ndarray] = {}
    meant = {name: t.astype(np.float64) for name, t in BASE.items()}
    for target in targets:
        rows, columns = BASE[f"layers.0.{target}.weight"].shape
        a, b = (rng.standard_normal(s).astype(np.float32) * 0.1 for s in ((rank, columns), (rows, rank)))
        tensors |= {
            f"base_model.model.layers.0.{target}.lora_A.weight": a,
            f"base_model.model.layers.0.{target}.lora_B.weight": b,
        }
        meant[f"layers.0.{target}.weight"] += 2.0 * b.astype(np.float64) @ a.astype(np.float64)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return meant


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    save_file(BASE, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_adapters_of_different_ranks_and_targets(folder: Path) -> None:
    meant = [adapter(folder / "x", 1, 4, ("q", "k")), adapter(folder / "y", 2, 7, ("q",))]
    models = [{"path": "base", "adapter": name} for name in ("x", "y")]
    recipe = {"method": "linear", "models": models, "folder": folder}
    report = weft.merge_to(recipe, folder / "out")
    merged = load_file(folder / "out" / "model.safetensors")
    for name, tensor in merged.items():
        assert tensor.dtype == np.float16, "the format of the base, though adapted tensors are computed in float32"
        np.testing.assert_allclose(tensor, (meant[0][name] + meant[1][name]) / 2, rtol=2**-10, atol=1e-6)
    assert report.merged == 3
    record = yaml.safe_load((folder / "out" / "weft_recipe.yaml").read_text())
    assert [(m["name"], m["path"], m["adapter"]) for m in record["models"]] == [
        ("x", "../base", "../x"),
        ("y", "../base", "../y"),
    ]
    weft.merge_to(str(folder / "out" / "weft_recipe.yaml"), folder / "again")
    assert (folder / "again" / "model.safetensors").read_bytes() == (folder / "out" / "model.safetensors").read_bytes()


def test_ties_of_an_adapter_and_a_full_model(folder: Path) -> None:
    meant = adapter(folder / "x", 1, 4, ("q", "k"))
    full = {name: (t + 0.1 * RNG.standard_normal(t.shape)).astype(np.float32) for name, t in BASE.items()}
    recipe = {
        "method": "ties",
        "base": folder / "base",
        "models": [{"path": str(folder / "base"), "adapter": str(folder / "x")}, {"path": full, "name": "full"}],
        "output": {"dtype": "float32"},
    }
    weft.merge_to(recipe, folder / "out")
    expected = weft.merge(
        [{n: t.astype(np.float32) for n, t in meant.items()}, full], base=BASE, method="ties", dtype="float32"
    )
    merged = load_file(folder / "out" / "model.safetensors")
    differing = sum(int((abs(merged[n] - expected[n]) > 1e-5).sum()) for n in merged)
    assert differing <= 2, "a float32 product rounds otherwise than float64; an entry at the threshold may turn"


def test_problems_of_an_adapter_name_the_model(folder: Path) -> None:
    with pytest.raises(weft.InputError, match=r"model .x.: .*no such"):
        weft.merge_to(
            {"method": "linear", "models": [{"path": "base", "adapter": "x"}], "folder": folder}, folder / "out"
        )


def test_a_trained_embedding_goes_before_its_resized_copy(folder: Path) -> None:
    """peft writes both when an embedding of a resized model is among `modules_to_save`."""
    meant = adapter(folder / "x", 1, 4, ("q",))
    file = folder / "x" / "adapter_model.safetensors"
    stem = "base_model.model.norm"
    trained = {
        f"{stem}.modules_to_save.weight": np.full(16, 2, np.float32),
        f"{stem}.weight": np.full(16, 3, np.float32),
    }
    save_file(load_file(file) | trained, file)
    weft.merge_to({"method": "linear", "models": [{"path": "base", "adapter": "x"}], "folder": folder}, folder / "out")
    merged = load_file(folder / "out" / "model.safetensors")
    assert merged["norm.weight"].tolist() == [2.0] * 16
    np.testing.assert_allclose(merged["layers.0.q.weight"], meant["layers.0.q.weight"], rtol=2**-10, atol=1e-6)
