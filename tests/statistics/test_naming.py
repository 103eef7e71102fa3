"""Which tensor of the checkpoint a parameter is: told right for every family, storage and kind of rearrangement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.models import (
    BERT,
    FAMILIES,
    GPT2,
    MIXTRAL,
    QWEN_MOE,
    RESNET,
    T5,
    VIT,
    Family,
    Storage,
    one_file,
    pickle,
    shards,
    tuned,
)  # fmt: skip
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.memory import InMemory
from weft.checkpoints.opening import open_path
from weft.statistics.naming import Naming, trace
from weft.statistics.tensors import read_tensor

transformers = pytest.importorskip("transformers")
TRANSFORMERS = tuple(family for family in FAMILIES if family.name != "unet")


def traced(kind: Any, folder: Path) -> tuple[Naming, Checkpoint, dict[str, Tensor]]:
    """A folder loaded as people load it."""
    from weft.statistics.loading import _from, quiet

    config = transformers.AutoConfig.from_pretrained(folder)
    with quiet(transformers):
        module, _ = _from(transformers, kind, config, folder)
        checkpoint = open_path(folder)
        naming = trace(checkpoint, module, lambda tensors: _from(transformers, kind, config, folder, tensors)[0])
    return naming, checkpoint, {name: p.detach() for name, p in module.named_parameters()}


def check_exact(naming: Naming, checkpoint: Checkpoint, parameters: Mapping[str, Tensor]) -> None:
    """Parameters put together under the checkpoint's names are the checkpoint."""
    for name in naming.pieces:
        assert torch.equal(naming.assembled(name, parameters), read_tensor(checkpoint, name).float()), name


@pytest.mark.parametrize("storage", [one_file, shards, pickle], ids=lambda s: s.__name__)
@pytest.mark.parametrize("family", TRANSFORMERS, ids=lambda f: f.name)
def test_every_family_and_storage(family: Family, storage: Storage, tmp_path: Path) -> None:
    model = tuned(family.build(), 1)
    storage(model, tmp_path)
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    check_exact(naming, checkpoint, parameters)
    assert naming.homeless == ()
    buffers = {name for name in naming.idle if "running_" in name}
    assert set(naming.idle) == buffers
    assert bool(buffers) == (family is RESNET)
    assert naming.named(parameters).keys() | buffers == {
        name for name, spec in checkpoint.tensors.items() if spec.dtype.name == "float32"
    }


def test_names_from_before_layers_had_weights(tmp_path: Path) -> None:
    """`gamma` and `beta`, and no prefix: as the first BERTs were stored."""
    model = tuned(BERT.build(), 1)
    model.save_pretrained(tmp_path)
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    check_exact(naming, checkpoint, parameters)
    assert "bert.embeddings.LayerNorm.gamma" in naming.pieces
    assert (naming.homeless, naming.idle) == ((), ())


def test_a_prefix_that_loading_adds(tmp_path: Path) -> None:
    model = tuned(GPT2.build(), 1)
    model.save_pretrained(tmp_path)
    model.transformer.save_pretrained(tmp_path)  # the weights of the inner model, under its own names
    transformers.GPT2LMHeadModel.config_class(**model.config.to_dict()).save_pretrained(tmp_path)
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    check_exact(naming, checkpoint, parameters)
    assert naming.named(parameters)["wte.weight"] == ("transformer.wte.weight",)


@pytest.mark.parametrize("family", [MIXTRAL, QWEN_MOE], ids=lambda f: f.name)
def test_experts_that_loading_stacks(family: Family, tmp_path: Path) -> None:
    model = tuned(family.build(), 1)
    model.save_pretrained(tmp_path)
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    experts = [name for name in naming.pieces if ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    assert not set(experts) & parameters.keys()
    squares = {name: p.square() for name, p in parameters.items()}  # what holds for numbers holds for their squares
    for name in experts:
        assert torch.equal(naming.assembled(name, squares), read_tensor(checkpoint, name).square())


@pytest.mark.parametrize("family", [GPT2, T5, BERT], ids=lambda f: f.name)
def test_tied_names_that_the_checkpoint_has_all_get_the_tensor(family: Family, tmp_path: Path) -> None:
    model = tuned(family.build(), 1)
    pickle(model, tmp_path)  # which, unlike safetensors, keeps all names
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    assert set(naming.pieces) == set(checkpoint.tensors)
    assert len(naming.pieces) > len(parameters)


def test_a_layer_that_the_checkpoint_lacks_is_homeless(tmp_path: Path) -> None:
    model = tuned(BERT.build(), 1)
    model.save_pretrained(tmp_path)
    naming, checkpoint, parameters = traced(transformers.BertForSequenceClassification, tmp_path)
    check_exact(naming, checkpoint, parameters)
    assert set(naming.homeless) == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert all(name.startswith("cls.predictions.") for name in naming.idle)
    assert naming.idle


class Two(nn.Module):
    """A module that is made of other tensors in one of many ways."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.clone().float()))


STORED = {"q": torch.randn(4, 6), "k": torch.randn(4, 6), "b": torch.zeros(4), "both": torch.randn(10, 3)}
WAYS = {
    "fused": lambda t: Two(qk=torch.cat([t["q"], t["k"]]), b=t["b"], both=t["both"]),
    "side by side": lambda t: Two(qk=torch.cat([t["q"], t["k"]], 1), b=t["b"], both=t["both"]),
    "split": lambda t: Two(q=t["q"], k=t["k"], b=t["b"], one=t["both"][:4], two=t["both"][4:]),
    "turned": lambda t: Two(q=t["q"].T, k=t["k"], b=t["b"], both=t["both"].T),
    "turned in place": lambda t: Two(**{**t, "q": t["q"].reshape(6, 4).T}),
    "stacked": lambda t: Two(qk=torch.stack([t["q"], t["k"]]), b=t["b"], both=t["both"]),
    "reversed": lambda t: Two(**{**t, "q": t["q"].flip(0)}),
    "under other names": lambda t: Two(x=t["k"], y=t["q"], z=t["b"], w=t["both"]),
    "swapped": lambda t: Two(q=t["k"], k=t["q"], b=t["b"], both=t["both"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_any_rearrangement(way: str) -> None:
    checkpoint = InMemory(STORED, "stored")
    module = WAYS[way](STORED)
    naming = trace(checkpoint, module, WAYS[way])
    assert (naming.homeless, naming.idle) == ((), ())
    check_exact(naming, checkpoint, {name: p.detach() for name, p in module.named_parameters()})


def test_what_is_computed_from_a_tensor_is_not_that_tensor() -> None:
    def way(tensors: Mapping[str, Tensor]) -> Two:
        return Two(q=tensors["q"] + 1.0, k=tensors["k"], b=tensors["b"], both=tensors["both"][:, :2])

    naming = trace(InMemory(STORED, "stored"), way(STORED), way)
    assert set(naming.homeless) == {"q", "both"}
    assert set(naming.pieces) == {"k", "b"}
    assert set(naming.idle) == {"q", "both"}


def test_matrices_in_rows_of_their_own() -> None:
    """What a Gram matrix of a fused layer says holds for its parts."""
    naming = trace(InMemory(STORED, "stored"), WAYS["fused"](STORED), WAYS["fused"])
    assert naming.rows("q") == ("qk", 0, 4)
    assert naming.rows("k") == ("qk", 4, 8)
    assert naming.rows("b") is None
    beside = trace(InMemory(STORED, "stored"), WAYS["side by side"](STORED), WAYS["side by side"])
    assert beside.rows("q") is None


def test_half_precision_is_traced_exactly(tmp_path: Path) -> None:
    model = tuned(VIT.build(), 1).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    naming, checkpoint, parameters = traced(type(model), tmp_path)
    check_exact(naming, checkpoint, parameters)
    assert set(naming.pieces) == set(checkpoint.tensors)
