"""Adapters that peft itself wrote, against its own merge_and_unload, in float64."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints.adapters import whole
from weft.checkpoints.adapter import open_adapted
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def llama(tied: bool = False) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=23, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double()


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=23, n_embd=8, n_layer=2, n_head=2, n_positions=16, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config).double()


def mixed() -> Any:
    """What transformers of text do not have: convolutions and torch's own attention."""
    parts = {
        "attention": torch.nn.MultiheadAttention(8, 2),
        "conv": torch.nn.Conv2d(4, 6, 3),
        "pointwise": torch.nn.Conv2d(4, 6, 1),
        "signal": torch.nn.Conv1d(4, 6, 5),
        "head": torch.nn.Linear(8, 3),
    }
    return torch.nn.ModuleDict(parts).double()


def trained(model: Any, folder: Path, **config: Any) -> Any:
    """The model with an adapter whose every number is random, saved; returns it merged."""
    torch.manual_seed(3)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(lora_alpha=5, **{"r": 3, **config}))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.rand_like(parameter) if "magnitude" in name else torch.randn_like(parameter)
            parameter.data += noise * 0.3
    adapted.double().save_pretrained(folder)
    return adapted.merge_and_unload()


def stored(model: Any, folder: Path) -> Path:
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return folder
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


LLAMA = ["q_proj", "v_proj", "down_proj"]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (llama, {"target_modules": LLAMA}),
    "rank-stabilised": (llama, {"target_modules": LLAMA, "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": LLAMA,
            "rank_pattern": {"layers.0.self_attn.q_proj": 5, "^v_proj": 7, ".*1.mlp.*": 2},
            "alpha_pattern": {"v_proj": 9, r"model\.layers\.\d\.mlp\.down_proj": 4},
            "use_rslora": True,
        },
    ),
    "some layers": (llama, {"target_modules": LLAMA, "layers_to_transform": [1]}),
    "everything": (llama, {"target_modules": "all-linear"}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": (llama, {"target_modules": ["lm_head", "q_proj"]}),
    "saved": (llama, {"target_modules": LLAMA, "modules_to_save": ["norm", "lm_head"]}),
    "dora": (llama, {"target_modules": [*LLAMA, "embed_tokens"], "use_dora": True}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj"], "bias": "all"}),
    "gpt2 dora": (gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "shifted": (gpt2, {"target_modules": ["c_fc"], "lora_bias": True}),
    "convolutions": (mixed, {"target_modules": ["conv", "pointwise", "signal", "head"], "bias": "lora_only"}),
    "convolutions dora": (mixed, {"target_modules": ["conv", "pointwise", "signal"], "use_dora": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_as_merge_and_unload(tmp_path: Path, case: str) -> None:
    make, config = CASES[case]
    original = make()
    merged = trained(original, tmp_path / "lora", **config).state_dict()
    model = open_adapted(open_checkpoint(stored(original, tmp_path / "base")), tmp_path / "lora", case)
    assert any(not torch.equal(merged[name], t) for name, t in original.state_dict().items())
    assert {n for n in merged if n != "lm_head.weight"} == {n for n in model.tensors if n != "lm_head.weight"}
    for name in model.tensors:
        np.testing.assert_allclose(whole(model, name), merged[name].numpy(), rtol=1e-12, atol=1e-13, err_msg=name)


def test_the_attention_of_torch_is_refused(tmp_path: Path) -> None:
    original = mixed()
    trained(original, tmp_path / "lora", target_modules=["attention"])
    base = open_checkpoint(stored(original, tmp_path / "base"))
    with pytest.raises(InputError, match=r"changes 'attention', a torch\.nn\.MultiheadAttention"):
        open_adapted(base, tmp_path / "lora", "attention")


def test_a_base_that_lacks_the_prefix(tmp_path: Path) -> None:
    original = gpt2()
    merged = trained(original, tmp_path / "lora", target_modules=["c_attn"]).state_dict()
    original.transformer.save_pretrained(tmp_path / "base")
    model = open_adapted(open_checkpoint(tmp_path / "base"), tmp_path / "lora", "gpt2")
    for name in model.tensors:
        np.testing.assert_allclose(whole(model, name), merged[f"transformer.{name}"].numpy(), rtol=1e-12, atol=1e-13)


def test_an_adapted_embedding_that_is_also_the_head(tmp_path: Path) -> None:
    original = llama(tied=True)
    base = stored(original, tmp_path / "base")
    trained(original, tmp_path / "lora", target_modules=["embed_tokens"], ensure_weight_tying=True)
    model = open_adapted(open_checkpoint(base), tmp_path / "lora", "together")
    assert "lm_head.weight" not in model.tensors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = peft.PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "lora")
    layer = adapter.base_model.model.model.embed_tokens
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    np.testing.assert_allclose(whole(model, "model.embed_tokens.weight"), expected.detach().numpy(), rtol=1e-12)


def test_an_adapted_embedding_that_would_take_the_head_along(tmp_path: Path) -> None:
    original = llama(tied=True)
    base = stored(original, tmp_path / "base")
    config = peft.LoraConfig(r=3, target_modules=["embed_tokens"])
    peft.get_peft_model(original, config).save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    with pytest.raises(InputError, match="also uses as its output head"):
        open_adapted(open_checkpoint(base), tmp_path / "lora", "apart")
