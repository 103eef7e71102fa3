"""Pipelines of diffusers, merged whole: loaded again by diffusers, and compared with a computation in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import weft
from tests import reference
from tests.zoo import pipelines as zoo
from tests.zoo.pipelines import PARTS, Pipe

Models = dict[str, Pipe]
TUNED = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pipes(place: Path) -> Models:
    """A base and three fine-tunes from three people, each stored in a way of its own."""
    base = zoo.pipeline(place / "vocabulary")
    found = {"base": base, **{name: zoo.tuned(base, k) for k, name in enumerate(TUNED, 1)}}
    for (name, pipe), store in zip(found.items(), (zoo.one_file, zoo.shards, zoo.pickle, zoo.variant), strict=True):
        store(pipe, place / name)
    return found


def merged(place: Path, out: Path, method: str, options: dict[str, Any] | None = None, **recipe: Any) -> Path:
    parts = {"folder": place, "method": method, "base": "base", "models": TUNED, **recipe}
    weft.merge_to(parts, out, **(options or {}))
    return out


def numbers(pipe: Pipe) -> dict[str, Any]:
    return {name: tensor.double().numpy() for name, tensor in zoo.state(pipe).items()}


def expected(pipes: Models, method: str) -> dict[str, Any]:
    base, *tuned = (numbers(pipes[name]) for name in ("base", *TUNED))
    ones = [1.0] * len(tuned)
    if method == "linear":
        return reference.linear(tuned, ones)
    if method == "task_arithmetic":
        return reference.task_arithmetic(base, tuned, ones, 0.4)
    return reference.ties(base, tuned, density=[0.2] * len(tuned), weight=ones)


def same(got: dict[str, torch.Tensor], wanted: dict[str, Any], rtol: float = 2**-22) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in got.items():
        np.testing.assert_allclose(tensor.double().numpy(), wanted[name], rtol=rtol, atol=2**-24, err_msg=name)


@pytest.mark.parametrize(
    "method",
    ["ties", pytest.param("linear", marks=pytest.mark.slow), pytest.param("task_arithmetic", marks=pytest.mark.slow)],
)
def test_a_pipeline_is_merged_and_loads_again(place: Path, pipes: Models, tmp_path: Path, method: str) -> None:
    """From one file, from shards, from pickles and from a variant; the trim of TIES is over all parts."""
    out = merged(place, tmp_path / "out", method)
    pipe = zoo.loaded(out)
    same(zoo.state(pipe), expected(pipes, method))
    assert torch.isfinite(zoo.picture(pipe)).all()
    verdict = weft.verify(out)
    assert verdict.spotless, verdict.findings
    assert verdict.tensors == len(zoo.state(pipe))


def test_every_part_is_written_as_its_library_writes_it(place: Path, pipes: Models, tmp_path: Path) -> None:
    out = merged(place, tmp_path / "out", "linear", output={"dtype": "bfloat16", "shard_size": "20KB"})
    assert not list(out.glob("*.safetensors")), "no weights beside the parts"
    assert (out / "text_encoder" / "model.safetensors").is_file(), "small enough for one file"
    assert json.loads((out / "text_encoder" / "config.json").read_text())["dtype"] == "bfloat16"
    for part in ("unet", "vae"):
        index = json.loads((out / part / "diffusion_pytorch_model.safetensors.index.json").read_text())
        files = {file.name for file in (out / part).glob("*.safetensors")}
        assert len(files) > 1
        assert set(index["weight_map"].values()) == files
        held = {name: t for file in files for name, t in load_file(out / part / file).items()}
        assert held.keys() == index["weight_map"].keys() == getattr(pipes["base"], part).state_dict().keys()
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in held.values())
    for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "unet/config.json"):
        assert (out / name).read_bytes() == (place / "base" / name).read_bytes()
    same(zoo.state(zoo.loaded(out)), expected(pipes, "linear"), rtol=2**-8)
    assert weft.verify(out).spotless


@pytest.mark.slow
@pytest.mark.usefixtures("pipes")
def test_the_same_bytes_for_another_budget(place: Path, tmp_path: Path) -> None:
    outputs = [
        merged(place, tmp_path / f"out{k}", "ties", options, output={"shard_size": "40KB"})
        for k, options in enumerate(({"workers": 1}, {"workers": 3, "memory": "30MB"}))
    ]
    first, second = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*.safetensors*")} for out in outputs)
    assert len(first) > len(PARTS)
    assert first == second


@pytest.mark.slow
def test_a_rule_for_one_part(place: Path, pipes: Models, tmp_path: Path) -> None:
    """The text encoder is kept, the VAE is the second model's; patterns read as paths do."""
    rules = [{"match": "text_encoder/*", "use": "base"}, {"match": "vae/*", "use": "b"}]
    got = zoo.state(zoo.loaded(merged(place, tmp_path / "out", "linear", rules=rules)))
    average = expected(pipes, "linear")
    sources = {"text_encoder": numbers(pipes["base"]), "vae": numbers(pipes["b"]), "unet": average}
    same(got, {name: sources[name.partition("/")[0]][name] for name in got})


@pytest.mark.slow
def test_a_part_alone_is_put_into_its_pipeline_by_renaming(place: Path, pipes: Models, tmp_path: Path) -> None:
    """Fine-tunes of the UNet only, as most are."""
    models = [{"path": f"{name}/unet", "rename": {"re:^": "unet/"}} for name in TUNED]
    out = merged(place, tmp_path / "out", "linear", models=models, on_missing="base")
    average, base = expected(pipes, "linear"), numbers(pipes["base"])
    same(zoo.state(zoo.loaded(out)), {n: (average if n.startswith("unet/") else base)[n] for n in base})


@pytest.mark.slow
@pytest.mark.usefixtures("pipes")
def test_copies_give_the_pipeline_back(place: Path, tmp_path: Path) -> None:
    out = merged(place, tmp_path / "out", "task_arithmetic", models=["base", "base"])
    for part in PARTS:
        (file,) = (out / part).glob("*.safetensors")
        before, after = load_file(place / "base" / part / file.name), load_file(file)
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.slow
def test_a_part_that_a_rule_drops_is_not_listed(place: Path, pipes: Models, tmp_path: Path) -> None:
    """As people do with the safety checker; diffusers loads what is left."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    for name in ("with", "with-too"):
        zoo.one_file(pipes["base"], tmp_path / name)
        checker.save_pretrained(tmp_path / name / "safety_checker")
        CLIPImageProcessor().save_pretrained(tmp_path / name / "feature_extractor")
        listing = tmp_path / name / "model_index.json"
        entries = {
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
        }
        listing.write_text(json.dumps(json.loads(listing.read_text()) | entries))
    pair: dict[str, Any] = {"folder": tmp_path, "method": "linear", "models": ["with", "with-too"]}
    weft.merge_to(pair, tmp_path / "kept")
    assert zoo.loaded(tmp_path / "kept").safety_checker is not None
    assert weft.verify(tmp_path / "kept").ok
    weft.merge_to({**pair, "rules": [{"match": "safety_checker/*", "use": "drop"}]}, tmp_path / "dropped")
    assert not (tmp_path / "dropped" / "safety_checker").exists()
    assert zoo.loaded(tmp_path / "dropped").safety_checker is None
    assert weft.verify(tmp_path / "dropped").spotless
