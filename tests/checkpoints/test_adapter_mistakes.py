"""Adapters that do not fit, are not LoRA, or are LoRA of a kind that cannot be added: what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints.adapters import Tensors, adapted, factors, whole, written
from weft.checkpoints.adapter import open_adapted
from weft.checkpoints.memory import InMemory
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

RNG = np.random.default_rng(12)
BASE = {"layers.0.q.weight": np.ones((4, 5), "float32"), "layers.0.q.bias": np.ones(4, "float32")}
Q = factors(RNG, "layers.0.q", (5,), 4)


def complaint(folder: Path, tensors: Tensors, base: Tensors = BASE, **config: Any) -> str:
    with pytest.raises(InputError) as caught:
        adapted(folder, base, tensors, **config)
    return str(caught.value)


def opened(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_adapted(InMemory(BASE, "the base"), folder, "the model")
    return str(caught.value)


# The folder ---------------------------------------------------------------------------------------------------------


def test_what_is_not_an_adapter_folder(tmp_path: Path) -> None:
    assert "lora: no such folder" in opened(tmp_path / "lora")
    (tmp_path / "config.json").write_text("{}")
    assert "holds no adapter_config.json; it holds: config.json" in opened(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    text = opened(tmp_path)
    assert "holds no adapter_model.safetensors; it holds: adapter_config.json, config.json" in text


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"peft_type": 3}', "[" * 5000])
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    assert "adapter_config.json: " in opened(tmp_path)


@pytest.mark.parametrize("kind", ["IA3", "ADALORA", "LOHA", "PREFIX_TUNING"])
def test_another_kind_of_adapter(tmp_path: Path, kind: str) -> None:
    text = complaint(tmp_path, Q, peft_type=kind)
    assert f"is a {kind} adapter; only LORA can be added on the fly" in text
    assert "merge it first: load base and adapter with peft, call merge_and_unload()" in text


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("use_qalora", True, "use_qalora is set: such an adapter adapts pooled inputs"),
        ("target_parameters", ["experts.up"], "adapts parameters that are not modules"),
        ("trainable_token_indices", [1], "changes single rows of an embedding"),
        ("use_newlora", True, "use_newlora is set, which is a kind of LoRA that is not known here"),
        ("fancy_config", {"a": 1}, "fancy_config is set, which is a kind of LoRA"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights is 'pissa_niter_4'"),
        ("r", 0, "r is 0, not a positive whole number"),
        ("lora_alpha", "8", "lora_alpha is '8', not a number"),
        ("rank_pattern", {"q": "8"}, "rank_pattern is {'q': '8'}, not a map of module names to numbers"),
        ("alpha_pattern", {"(": 8}, "alpha_pattern: '(' is not a regular expression"),
        ("modules_to_save", "head", "modules_to_save is 'head', not a list of module names"),
    ],
)
def test_options_that_cannot_be_added_or_understood(tmp_path: Path, option: str, value: Any, said: str) -> None:
    assert said in complaint(tmp_path, Q, **{option: value})


def test_all_that_is_wrong_with_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    text = complaint(tmp_path, Q, r=-1, use_qalora=True, init_lora_weights="olora")
    assert text.startswith("3 problems:")


def test_options_that_only_matter_in_training(tmp_path: Path) -> None:
    config = {"eva_config": {"rho": 2}, "init_lora_weights": "eva", "lora_dropout": 0.1, "target_modules": ["q"]}
    assert adapted(tmp_path, BASE, Q, **config).tensors


# Names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["{module}.{part}.weight", "base_model.model.{module}.{part}.default.weight", "base_model.model._orig_mod.{full}"],
)
def test_names_as_they_occur(tmp_path: Path, pattern: str) -> None:
    expected = whole(adapted(tmp_path / "usual", BASE, Q), "layers.0.q.weight")
    tensors = {}
    for name, tensor in Q.items():
        full = name.removeprefix("base_model.model.")
        module, _, part = full.removesuffix(".weight").rpartition(".")
        tensors[pattern.format(module=module, part=part, full=full)] = tensor
    model = adapted(tmp_path / "other", BASE, tensors)
    assert whole(model, "layers.0.q.weight").tobytes() == expected.tobytes()


@pytest.mark.parametrize(("there", "here"), [("", "model."), ("model.", ""), ("transformer.", ""), ("", "bert.")])
def test_a_prefix_that_is_lacking_or_too_many(tmp_path: Path, there: str, here: str) -> None:
    base = {f"{here}{name}": tensor for name, tensor in BASE.items()}
    base["head.weight"] = np.ones((2, 5), "float32")
    tensors = {name.replace("model.layers", f"model.{there}layers"): tensor for name, tensor in Q.items()}
    tensors[f"{there}layers.0.q.bias"] = np.zeros(4, "float32")
    model = adapted(tmp_path, base, tensors)
    assert set(model.tensors) == set(base)
    assert not whole(model, f"{here}layers.0.q.bias").any()
    assert (whole(model, f"{here}layers.0.q.weight") != 1).all()


def test_a_prefix_that_could_be_one_or_another(tmp_path: Path) -> None:
    base = {f"{prefix}.layers.0.q.weight": np.ones((4, 5), "float32") for prefix in ("text", "vision")}
    text = complaint(tmp_path, Q, base)
    assert "module 'layers.0.q' may belong to any of 'text.layers.0.q.weight', 'vision.layers.0.q.weight'" in text
    assert "in the base (the base)" in text


def test_a_tensor_that_the_base_does_not_have(tmp_path: Path) -> None:
    text = complaint(tmp_path, {**Q, **factors(RNG, "layers.0.qq", (5,), 4), **factors(RNG, "zzz", (5,), 4)})
    assert text.startswith("2 problems:")
    assert "tensor 'base_model.model.layers.0.qq.lora_A.weight' changes 'layers.0.qq.weight'" in text
    assert "which the base (the base) does not have" in text
    assert "did you mean 'layers.0.q.weight'?" in text
    assert "name the base that the adapter was trained on; if it is an output head" in text


def test_a_whole_tensor_that_nothing_explains(tmp_path: Path) -> None:
    text = complaint(tmp_path, {**Q, "base_model.model.layers.0.q.biass": np.ones(4, "float32")})
    assert "would replace 'layers.0.q.biass', which the base (the base) does not have" in text
    assert "did you mean 'layers.0.q.bias'?" in text


def test_half_an_adapter(tmp_path: Path) -> None:
    a, b = Q
    assert f"tensor {a!r} has no factor B beside it" in complaint(tmp_path / "a", {a: Q[a]})
    assert f"tensor {b!r} has no factor A beside it" in complaint(tmp_path / "b", {b: Q[b]})


def test_two_adapters_in_one_file(tmp_path: Path) -> None:
    twice = {name.replace(".weight", f".{who}.weight"): t for name, t in Q.items() for who in ("one", "two")}
    assert "are two adapters for one tensor" in complaint(tmp_path, twice)


def test_a_part_that_is_not_known(tmp_path: Path) -> None:
    tensors = {**Q, "base_model.model.layers.0.q.lora_diag": np.ones(3, "float32")}
    text = complaint(tmp_path, tensors)
    assert "tensor 'base_model.model.layers.0.q.lora_diag' belongs to a kind of LoRA that is not known here" in text


# Shapes and formats -------------------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    text = complaint(tmp_path, factors(RNG, "layers.0.q", (6,), 4))
    assert "lora_A.weight' [3, 6]" in text
    assert "lora_B.weight' [4, 3] do not fit 'layers.0.q.weight', which has shape [4, 5] in the base (the base)" in text


def test_a_convolution_in_groups(tmp_path: Path) -> None:
    tensors = factors(RNG, "conv", (4, 3, 3), 6)
    text = complaint(tmp_path, tensors, {"conv.weight": np.ones((6, 2, 3, 3), "float32")})
    assert "convolutions in groups are not supported" in text


def test_a_rank_that_the_configuration_does_not_give(tmp_path: Path) -> None:
    text = complaint(tmp_path, Q, rank_pattern={"q": 8})
    assert "has shape [3, 5], of rank 3, but the configuration gives 'layers.0.q' rank 8" in text


def test_a_whole_tensor_of_another_shape(tmp_path: Path) -> None:
    text = complaint(tmp_path, {**Q, "layers.0.q.bias": np.ones(7, "float32")})
    assert "has shape [7], but 'layers.0.q.bias' has shape [4] in the base" in text


def test_a_bias_of_another_shape(tmp_path: Path) -> None:
    text = complaint(tmp_path, {**Q, "layers.0.q.lora_B.bias": np.ones(7, "float32")})
    assert "'layers.0.q.lora_B.bias' [7] do not fit 'layers.0.q.bias', which has shape [4]" in text


def test_lengths_that_are_lacking_unasked_or_too_few(tmp_path: Path) -> None:
    vector = "base_model.model.layers.0.q.lora_magnitude_vector"
    assert "has no lora_magnitude_vector, but the configuration says use_dora: true" in complaint(
        tmp_path / "lacking", Q, use_dora=True
    )
    assert "has a lora_magnitude_vector, but the configuration says use_dora: false" in complaint(
        tmp_path / "unasked", {**Q, vector: np.ones(4, "float32")}
    )
    assert "has shape [3], but the module has 4 outputs" in complaint(
        tmp_path / "few", {**Q, vector: np.ones(3, "float32")}, use_dora=True
    )


def test_a_quantised_base(tmp_path: Path) -> None:
    text = complaint(tmp_path, Q, {"layers.0.q.weight": np.ones((4, 5), "int8")})
    assert "changes 'layers.0.q.weight', which is int8 [4, 5] in the base" in text
    assert "a quantised base cannot be adapted" in text


def test_factors_that_are_not_floats(tmp_path: Path) -> None:
    text = complaint(tmp_path, {name: tensor.astype("int8") for name, tensor in Q.items()})
    assert "lora_A.weight' is int8 [3, 5]" in text


def test_squares_that_may_be_stored_either_way(tmp_path: Path) -> None:
    tensors = {**factors(RNG, "attn", (5,), 15), **factors(RNG, "proj", (5,), 5)}
    base = {"attn.weight": np.ones((5, 15), "float32"), "proj.weight": np.ones((5, 5), "float32")}
    text = complaint(tmp_path / "unsaid", tensors, base)
    assert "'proj.weight' is square and may be stored inputs by outputs, as 'attn.weight' is" in text
    assert "set fan_in_fan_out to true in adapter_config.json" in text
    assert adapted(tmp_path / "said", base, tensors, fan_in_fan_out=True).tensors


def test_another_base_altogether_is_not_a_thousand_problems(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {}
    for layer in range(40):
        tensors |= factors(RNG, f"h.{layer}.mlp", (5,), 4)
    text = complaint(tmp_path, tensors)
    assert text.startswith("40 problems:")
    assert text.endswith("more")


# A head that the base does not store --------------------------------------------------------------------------------


def language_model(folder: Path, **config: Any) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"embed.weight": np.ones((9, 4), "float32")}, folder / "model.safetensors")
    given = {"architectures": ["TinyForCausalLM"], "vocab_size": 9, **config}
    (folder / "config.json").write_text(json.dumps(given))
    return folder


TABLE = {"embed.lora_embedding_A": np.ones((3, 9), "float32"), "embed.lora_embedding_B": np.ones((4, 3), "float32")}


@pytest.mark.parametrize(
    "config", [{}, {"tie_word_embeddings": True}, {"vocab_size": None, "text_config": {"vocab_size": 9}}]
)
def test_an_embedding_that_is_also_the_head(tmp_path: Path, config: dict[str, Any]) -> None:
    base = open_checkpoint(language_model(tmp_path / "base", **config))
    with pytest.raises(InputError) as caught:
        open_adapted(base, written(tmp_path / "lora", TABLE), "the model")
    text = str(caught.value)
    assert "the adapter changes 'embed.weight', which" in text
    assert "also uses as its output head; it was trained with the head unchanged" in text
    assert "set ensure_weight_tying to true" in text


@pytest.mark.parametrize(
    "config",
    [{"tie_word_embeddings": False}, {"architectures": ["TinyModel"]}, {"architectures": None}],
)
def test_an_embedding_that_is_no_head(tmp_path: Path, config: dict[str, Any]) -> None:
    base = open_checkpoint(language_model(tmp_path / "base", **config))
    assert open_adapted(base, written(tmp_path / "lora", TABLE), "the model").tensors


def test_an_embedding_that_shall_take_the_head_along(tmp_path: Path) -> None:
    base = open_checkpoint(language_model(tmp_path / "base"))
    assert open_adapted(base, written(tmp_path / "lora", TABLE, ensure_weight_tying=True), "the model").tensors


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = written(tmp_path, Q)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"hook": print}, folder / "adapter_model.bin")
    assert "adapter_model.bin" in opened(folder)
