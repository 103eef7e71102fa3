"""Models of many families, stored in every way, merge on disk and load again as if their library had saved them.

The expected numbers come from the modules that were saved and plain torch arithmetic in float64; Weft's own reading and
writing is in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weft
from tests.zoo import models as zoo
from tests.zoo.models import (
    FAMILIES,
    GPT2,
    LLAMA,
    MIXTRAL,
    QWEN_MOE,
    RESNET,
    STORAGES,
    T5,
    UNET,
    Family,
    Module,
    Storage,
)

METHODS = ("linear", "ties", "task_arithmetic", "fisher")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EXPERTS = (QWEN_MOE, MIXTRAL)
NO_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")

TELLING = (T5, RESNET, MIXTRAL)
"""Between them: ties, two towers, integers, scalars and experts."""


def of(families: tuple[Family, ...], slow: tuple[Family, ...] = ()) -> pytest.MarkDecorator:
    """Once for each family, `slow` only where time allows."""
    marked = [pytest.param(family, id=family.name) for family in families]
    marked += [
        pytest.param(family, id=family.name, marks=pytest.mark.slow) for family in slow if family not in families
    ]
    return pytest.mark.parametrize("family", marked)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def stored(place: Path, models: Mapping[str, Module], storage: Storage) -> None:
    for name, model in models.items():
        (place / name).mkdir(parents=True)
        storage(model, place / name)


def merged(place: Path, method: str, **recipe: Any) -> Path:
    """Merge the folders a and b."""
    parts = {"folder": place, "method": method, "base": "base", "models": ["a", "b"], **recipe}
    weft.merge_to(parts, place / "out", workers=2)
    return place / "out"


def reloaded(family: Family, folder: Path) -> Module:
    """The output, loaded by its library without a complaint."""
    model, said = family.load(folder)
    assert not any(said[kind] for kind in NO_KEYS), said
    return model.eval()


def mean(models: list[Module]) -> dict[str, torch.Tensor]:
    states = [model.state_dict() for model in models]
    return {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(states[0][name].dtype) for name in states[0]
    }


def on_disk(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def same(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], roundings: int = 0) -> None:
    """Equal names and numbers, but for the last bit. Loaders may widen what they read: T5's `wo`, all of a UNet.

    With `roundings`, so many of float32 on the way, which cancelling summands make large beside the sum.
    """
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        step = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0
        found = got[name].to(tensor.dtype)
        slack = roundings * 2**-23 * float(tensor.abs().max()) if roundings else 0
        torch.testing.assert_close(found, tensor, rtol=step, atol=slack, msg=lambda text, name=name: f"{name}: {text}")


def answers(family: Family, model: Module) -> None:
    """A forward pass gives finite numbers."""
    with torch.no_grad():
        out = model.float()(**family.inputs)
    tensors = [t for t in out.to_tuple() if torch.is_tensor(t)] if hasattr(out, "to_tuple") else [out.sample]
    assert tensors
    assert all(torch.isfinite(t).all() for t in tensors)


def check(place: Path, family: Family, storage: Storage, dtype: torch.dtype, method: str) -> None:
    """Store, merge, load, compare, ask."""
    base, tuned = zoo.base_and_tuned(family, dtype)
    stored(place, {"base": base, "a": tuned[0], "b": tuned[1]}, storage)
    out = merged(place, method)
    assert {t.dtype for t in on_disk(out).values()} == {t.dtype for t in base.state_dict().values()}
    model = reloaded(family, out)
    assert zoo.ties(model) == zoo.ties(base), "what was one tensor is one tensor"
    if method in ("linear", "fisher"):  # a Fisher that is the same everywhere weighs all alike
        same(model.state_dict(), mean(tuned), roundings=0 if method == "linear" else 4)
    answers(family, model)


@of(FAMILIES)
def test_an_average_loads_and_is_one(tmp_path: Path, family: Family) -> None:
    turn = FAMILIES.index(family)
    check(tmp_path, family, STORAGES[turn % 4], DTYPES[turn % 3], "linear")


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "dtype"), list(product(STORAGES, DTYPES)))
@of(FAMILIES)
def test_every_family_in_every_storage_and_format(
    tmp_path: Path, family: Family, storage: Storage, dtype: torch.dtype
) -> None:
    turn = FAMILIES.index(family) + STORAGES.index(storage) + DTYPES.index(dtype)
    check(tmp_path, family, storage, dtype, METHODS[turn % 4])
    check(tmp_path / "again", family, storage, dtype, "linear")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@of(FAMILIES)
def test_every_family_by_every_method(tmp_path: Path, family: Family, method: str) -> None:
    check(tmp_path, family, zoo.one_file, torch.float32, method)


@pytest.mark.parametrize("storage", [zoo.old_pickle, zoo.training_state])
def test_what_training_scripts_leave_behind(tmp_path: Path, storage: Storage) -> None:
    base, tuned = zoo.base_and_tuned(LLAMA)
    stored(tmp_path, {"base": base}, zoo.one_file)
    stored(tmp_path, {"a": tuned[0], "b": tuned[1]}, storage)
    same(reloaded(LLAMA, merged(tmp_path, "linear")).state_dict(), mean(tuned))


@of((T5, GPT2, UNET))
def test_three_models_from_three_people(tmp_path: Path, family: Family) -> None:
    """Three storages and three number formats; the base lends its own."""
    base, tuned = zoo.base_and_tuned(family)
    tuned = [tuned[0].to(torch.float16), tuned[1].to(torch.bfloat16)]
    stored(tmp_path, {"base": base}, zoo.shards)
    stored(tmp_path, {"a": tuned[0]}, zoo.pickle)
    stored(tmp_path, {"b": tuned[1]}, zoo.one_file)
    same(reloaded(family, merged(tmp_path, "linear")).state_dict(), mean([model.float() for model in tuned]))


@of(TELLING, slow=FAMILIES)
def test_copies_give_the_model_back(tmp_path: Path, family: Family) -> None:
    base, _ = zoo.base_and_tuned(family, torch.bfloat16, 0)
    stored(tmp_path, {"base": base, "a": base, "b": base}, zoo.shards)
    out = merged(tmp_path, "linear", output={"shard_size": "5KB"})
    assert _bytes(out) == _bytes(tmp_path / "base")
    assert any(out.glob("*.index.json"))
    model = reloaded(family, out)
    assert zoo.ties(model) == zoo.ties(base)
    same(model.state_dict(), base.state_dict())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: t.reshape(-1).view(torch.uint8).numpy().tobytes() for name, t in on_disk(folder).items()}


@of(TELLING, slow=FAMILIES)
def test_the_output_may_have_another_format_and_shards(tmp_path: Path, family: Family) -> None:
    base, tuned = zoo.base_and_tuned(family)
    stored(tmp_path, {"base": base, "a": tuned[0], "b": tuned[1]}, zoo.one_file)
    out = merged(tmp_path, "linear", output={"dtype": "bfloat16", "shard_size": "5KB"})
    index = json.loads(next(out.glob("*.index.json")).read_text())
    assert set(index["weight_map"].values()) == {file.name for file in out.glob("*.safetensors")}
    model = reloaded(family, out)
    same(model.state_dict(), {n: t.bfloat16() if t.is_floating_point() else t for n, t in mean(tuned).items()})
    answers(family, model)


def test_some_families_share_tensors() -> None:
    """Or the comparison of ties would prove nothing."""
    families = [family for family in FAMILIES if family is not UNET]
    assert {f.name for f in families if zoo.ties(f.build())} == {"gpt2", "bert", "t5", "whisper"}


class TestExperts:
    """Mixtures of experts are stored with one tensor for each expert, or one for all of a layer."""

    @pytest.mark.parametrize("method", ["linear", "ties"])
    @of(EXPERTS)
    def test_fused(self, tmp_path: Path, family: Family, method: str) -> None:
        check(tmp_path, family, zoo.fused, torch.float32, method)
        assert "model.layers.0.mlp.experts.gate_up_proj" in on_disk(tmp_path / "out")

    @of(EXPERTS)
    def test_one_by_one(self, tmp_path: Path, family: Family) -> None:
        check(tmp_path, family, zoo.shards, torch.float32, "linear")
        assert any(".experts.3." in name for name in on_disk(tmp_path / "out"))

    def test_one_expert_is_not_averaged_with_another(self, tmp_path: Path) -> None:
        """Experts have one shape; a rule for one of them reaches it alone."""
        base, tuned = zoo.base_and_tuned(MIXTRAL)
        stored(tmp_path, {"base": base, "a": tuned[0], "b": tuned[1]}, zoo.one_file)
        out = merged(tmp_path, "linear", rules=[{"match": "*layers.1*experts.2.*", "use": "b"}])
        got = reloaded(MIXTRAL, out).state_dict()
        name = "model.layers.1.mlp.experts.down_proj"
        average, second = mean(tuned)[name], tuned[1].state_dict()[name]
        assert torch.equal(got[name][2], second[2])
        torch.testing.assert_close(got[name][[0, 1, 3]], average[[0, 1, 3]])


class TestBuffers:
    """What is stored beside weights: counters, running statistics, masks."""

    def test_statistics_of_batches_are_averaged_and_counters_pass(self, tmp_path: Path) -> None:
        base, tuned = zoo.base_and_tuned(RESNET)
        stored(tmp_path, {"base": base, "a": tuned[0], "b": tuned[1]}, zoo.one_file)
        state = reloaded(RESNET, merged(tmp_path, "task_arithmetic", parameters={"scale": 1})).state_dict()
        counters = {name: t for name, t in state.items() if name.endswith("num_batches_tracked")}
        assert counters
        assert all(t.dtype == torch.int64 and t.item() == 7 for t in counters.values())
        assert all((t >= 0).all() for name, t in state.items() if name.endswith("running_var"))

    @pytest.mark.parametrize("masked", [-1e4, float("-inf")])
    def test_the_masks_of_an_old_gpt2(self, tmp_path: Path, masked: float) -> None:
        """Checkpoints of 2019 hold `attn.bias`, a triangle of ones, and no `transformer.` before their names."""
        base, tuned = zoo.base_and_tuned(GPT2)
        for name, model in {"base": base, "a": tuned[0], "b": tuned[1]}.items():
            (tmp_path / name).mkdir()
            model.save_pretrained(tmp_path / name)
            (tmp_path / name / "model.safetensors").unlink()
            torch.save(_of_2019(model, masked), tmp_path / name / "pytorch_model.bin")
        out = merged(tmp_path, "linear")
        got = on_disk(out)
        assert torch.equal(got["h.1.attn.bias"], _triangle())
        assert got["h.1.attn.masked_bias"].item() == masked
        model, said = GPT2.load(out)
        assert not said["missing_keys"]
        assert not said["mismatched_keys"]
        same(model.state_dict(), mean(tuned))

    def test_masks_in_some_models_only(self, tmp_path: Path) -> None:
        """The older of two experts has them, and other names; the newer and the base do not."""
        base, tuned = zoo.base_and_tuned(GPT2)
        stored(tmp_path, {"base": base, "b": tuned[1]}, zoo.one_file)
        (tmp_path / "a").mkdir()
        torch.save(_of_2019(tuned[0], -1e4), tmp_path / "a" / "pytorch_model.bin")
        rules = [{"match": ["*.attn.bias", "*.masked_bias"], "use": "drop"}]
        models = [{"path": "a", "rename": {"re:^": "transformer."}}, "b"]
        out = merged(tmp_path, "linear", models=models, rules=rules)
        same(reloaded(GPT2, out).state_dict(), mean(tuned))


def _triangle() -> torch.Tensor:
    return torch.ones(32, 32, dtype=torch.bool).tril().view(1, 1, 32, 32)


def _of_2019(model: Module, masked: float) -> dict[str, torch.Tensor]:
    state = {n.removeprefix("transformer."): t for n, t in model.state_dict().items() if n != "lm_head.weight"}
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = _triangle()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(masked)
    return state


def test_the_head_of_another_task_is_taken_from_one_model(tmp_path: Path) -> None:
    """Two classifiers of different numbers of classes on one body."""
    base, tuned = zoo.base_and_tuned(zoo.VIT)
    stored(tmp_path, {"base": base, "a": tuned[0], "b": tuned[1]}, zoo.one_file)
    file = tmp_path / "b" / "model.safetensors"
    wide = {n: torch.zeros(5, *t.shape[1:]) if n.startswith("classifier") else t for n, t in load_file(file).items()}
    save_file(wide, file)
    got = on_disk(merged(tmp_path, "ties", rules=[{"match": "classifier.*", "use": "a"}]))
    assert torch.equal(got["classifier.weight"], tuned[0].state_dict()["classifier.weight"])
