"""Float8 weights against an independent float64 decoding, in whatever layout their scales come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import weft
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.float8 import Dequantized, Scaling, dequantized
from weft.checkpoints.float8_blocks import Grid
from weft.checkpoints.memory import InMemory
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError
from weft.kernels.dtypes import BY_NAME
from weft.kernels.float8 import table

RNG = np.random.default_rng(8)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FORMATS = (E4M3, E5M2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def codes(*shape: int, dtype: torch.dtype = E4M3) -> torch.Tensor:
    """Any code but those of numbers that are not finite."""
    return torch.from_numpy(RNG.uniform(-100, 100, shape).astype(np.float32)).to(dtype)


def scales(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.array(np.exp(RNG.uniform(-9, 3, shape)), np.float32))


def spread(scale: torch.Tensor, shape: tuple[int, ...], *block: int) -> np.ndarray:
    """Every scale repeated over its block, the last ones cut off."""
    wide = scale.double().numpy()
    for axis, times in enumerate(block):
        wide = wide.repeat(times, axis)
    return wide[tuple(slice(length) for length in shape)]


def opened(tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
    return open_checkpoint(dict(tensors), "fp8")


def saved(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def part(model: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    buffer = np.empty(4 * (stop - start), np.uint8)
    return model.read(name, start, stop, buffer).copy()


def whole(model: Checkpoint, name: str) -> np.ndarray:
    spec = model.tensors[name]
    return part(model, name, 0, spec.size).reshape(spec.shape)


def complaint(tensors: Mapping[str, torch.Tensor]) -> str:
    with pytest.raises(InputError) as caught:
        opened(tensors)
    return str(caught.value)


def check(model: Checkpoint, name: str, weight: torch.Tensor, scale: np.ndarray | float) -> None:
    """A product of four and twenty-four bits is exact in float64, and then rounded once."""
    np.testing.assert_array_equal(whole(model, name), (weight.double().numpy() * scale).astype(np.float32))


@pytest.mark.parametrize("dtype", [*FORMATS, torch.float8_e8m0fnu])
def test_every_code_is_the_number_that_torch_makes_of_it(dtype: torch.dtype) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    found = table(BY_NAME[str(dtype).removeprefix("torch.")])
    np.testing.assert_array_equal(found, expected)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(expected[finite]))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("on_disk", [True, False])
def test_without_scales_the_codes_are_the_numbers(tmp_path: Path, dtype: torch.dtype, on_disk: bool) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(4, 64)
    tensors = {"fc.weight": every, "norm": torch.ones(3), "empty": codes(0, 3, dtype=dtype)}
    model = open_checkpoint(saved(tmp_path / "m", tensors)) if on_disk else opened(tensors)
    np.testing.assert_array_equal(whole(model, "fc.weight"), every.float().numpy())
    assert whole(model, "empty").size == 0
    assert {name: str(spec) for name, spec in model.tensors.items()} == {
        "fc.weight": "float32 [4, 64]",
        "norm": "float32 [3]",
        "empty": "float32 [0, 3]",
    }
    assert [model.stored_dtype(name).name for name in ("fc.weight", "norm")] == ["bfloat16", "float32"]
    assert str(dtype).removeprefix("torch.") in model.file_of("fc.weight")
    model.close()


def test_a_checkpoint_without_float8_stays_as_it_is() -> None:
    inner = InMemory({"w": np.ones(3), "w_scale": np.ones(1), "k_scale": np.ones(1)}, "plain")
    assert dequantized(inner) is inner


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("fc.weight", "fc.weight_scale_inv"),
        ("fc.weight", "fc.weight_scale"),
        ("fc.weight", "fc.scale"),
        ("fc.weight", "fc.scale_weight"),
        ("weight", "scale"),
        ("experts.up", "experts.up_scale"),
        ("experts.up", "experts.up_scale_inv"),
    ],
)
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_name_of_a_scale_multiplies(name: str, scale: str, dtype: torch.dtype) -> None:
    tensors = {name: codes(3, 5, dtype=dtype), scale: scales(3, 1)}
    model = opened(tensors)
    assert list(model.tensors) == [name]
    check(model, name, tensors[name], tensors[scale].double().numpy())


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ((6, 4), ()), ((6, 4), (1,)), ((6, 4), (1, 1)), ((6, 4), (6,)), ((6, 4), (6, 1)), ((6, 4), (1, 4)),
        ((5,), ()), ((5,), (5,)), ((1, 1), (1, 1)), ((4, 4), (4, 4)), ((4, 4), (4,)),
        ((3, 6, 4), (3,)), ((3, 6, 4), (3, 1)), ((3, 6, 4), (3, 1, 1)), ((3, 6, 4), (3, 6)), ((3, 6, 4), (3, 6, 1)),
        ((3, 6, 4), (3, 1, 4)), ((3, 6, 4), ()), ((4, 3, 2, 2), (4,)), ((4, 3, 2, 2), (4, 1, 1, 1)),
    ],
)  # fmt: skip
def test_one_scale_for_all_for_each_row_or_for_each_expert(weight: tuple[int, ...], scale: tuple[int, ...]) -> None:
    w, s = codes(*weight), scales(*scale)
    wide = s.double().numpy().reshape(scale + (1,) * (len(weight) - len(scale)) if s.numel() > 1 else ())
    check(opened({"fc.weight": w, "fc.weight_scale": s}), "fc.weight", w, wide)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((256, 384), (128, 128)),
        ((300, 200), (128, 128)),
        ((10, 7), (3, 3)),
        ((64, 48), (16, 16)),
        ((100, 60), (32, 32)),
        ((6, 256), (1, 64)),
        ((256, 6), (64, 1)),
        ((2, 300, 140), (128, 128)),
        ((3, 10, 7), (4, 2)),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_blocks(tmp_path: Path, shape: tuple[int, ...], block: tuple[int, int], said: bool) -> None:
    """The last ones may be cut off; their size is said by the config, or is the only one that is likely."""
    count = tuple(-(-length // b) for length, b in zip(shape[-2:], block, strict=True))
    w, s = codes(*shape), scales(*shape[:-2], *count)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}} if said else {}
    model = open_checkpoint(saved(tmp_path / "m", {"fc.weight": w, "fc.weight_scale_inv": s}, **config))
    check(model, "fc.weight", w, spread(s, shape, *(1 for _ in shape[:-2]), *block))
    model.close()


def test_the_config_settles_what_the_shapes_leave_open(tmp_path: Path) -> None:
    """Blocks of 160 would be guessed to be of 128 rows; those of compressed-tensors are said elsewhere."""
    w, s = codes(320, 300), scales(2, 2)
    groups = {"group_0": {"weights": {"type": "float", "num_bits": 8, "block_structure": [160, 160]}}}
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    folder = saved(tmp_path / "m", {"fc.weight": w, "fc.weight_scale": s}, quantization_config=config)
    for path in (folder, folder / "model.safetensors"):
        model = open_checkpoint(path)
        check(model, "fc.weight", w, spread(s, (320, 300), 160, 160))
        model.close()


def test_one_weight_tells_the_size_of_anothers_blocks() -> None:
    """Three blocks of 3 cover 8 rows, and nothing else does; two of them cover 6, and so do two of 4."""
    tensors = {"a.weight": codes(8, 6), "a.weight_scale": scales(3, 2), "b.weight": codes(6, 4)}
    tensors["b.weight_scale"] = scales(2, 2)
    model = opened(tensors)
    check(model, "a.weight", tensors["a.weight"], spread(tensors["a.weight_scale"], (8, 6), 3, 3))
    check(model, "b.weight", tensors["b.weight"], spread(tensors["b.weight_scale"], (6, 4), 3, 3))
    del tensors["a.weight"], tensors["a.weight_scale"]
    assert "weight_block_size: [rows, columns]" in complaint(tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e8m0fnu])
def test_scales_in_every_format(dtype: torch.dtype) -> None:
    w, s = codes(4, 4), torch.tensor([0.5, 2, 2**-10, 4.0]).to(dtype)
    check(opened({"w": w, "w_scale": s}), "w", w, s.double().numpy()[:, None])


def test_no_number_stays_no_number() -> None:
    w = torch.tensor([0x7F, 0xFF, 0x00, 0x80], dtype=torch.uint8).view(E4M3)
    found = whole(opened({"w": w, "w_scale": torch.tensor(2.0)}), "w")
    np.testing.assert_array_equal(found, np.array([np.nan, np.nan, 0, -0.0], np.float32))
    w = torch.tensor([0x7C, 0xFC, 0x7B], dtype=torch.uint8).view(E5M2)
    found = whole(opened({"w": w, "w_scale": torch.tensor(1e38)}), "w")
    np.testing.assert_array_equal(found, np.array([np.inf, -np.inf, np.inf], np.float32))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_same_bytes_in_any_ranges_and_threads(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=3)))
    block = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    count = tuple(-(-length // b) for length, b in zip(shape[-2:], block, strict=True))
    w, s = codes(*shape), scales(*shape[:-2], *count)
    grid = Grid((shape[-2], shape[-1]), block)
    inner = InMemory({"w": w, "s": s}, "fp8")
    model = Dequantized(inner, {"w": Scaling("s", grid)}, frozenset())
    check(model, "w", w, spread(s, shape, *(1 for _ in shape[:-2]), *block))
    cuts = sorted({0, w.numel(), *data.draw(st.lists(st.integers(0, w.numel()), max_size=6))})
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda cut: part(model, "w", *cut), pairwise(cuts)))
    assert np.concatenate(parts).tobytes() == whole(model, "w").tobytes()


def test_tied_weights_stay_tied_and_share_a_scale() -> None:
    w, s = codes(4, 4), scales(4, 1)
    both = opened({"embed.weight": w, "embed.weight_scale": s, "head.weight": w, "head.weight_scale": s})
    one = opened({"embed.weight": w, "embed.weight_scale": s, "head.weight": w})
    for model in (both, one):
        assert dict(model.tied) == {"head.weight": "embed.weight"}
        check(model, "head.weight", w, s.double().numpy())
    two = opened({"embed.weight": w, "embed.weight_scale": s, "head.weight": w, "head.weight_scale": 2 * s})
    assert not two.tied


def test_what_only_inference_needs_is_left_out_and_told() -> None:
    tensors = {"attn.q_proj.weight": codes(4, 4), "attn.q_proj.weight_scale": scales(1), "other.k_scale": scales(1)}
    extra = ("attn.q_proj.input_scale", "attn.q_proj.activation_scale", "attn.k_scale", "attn.v_scale", "scaled_fp8")
    model = opened(tensors | {name: scales(1) for name in extra})
    assert isinstance(model, Dequantized)
    assert list(model.tensors) == ["attn.q_proj.weight", "other.k_scale"]
    [note] = model.notes
    assert note.startswith("fp8: 5 tensor(s) that only quantised inference needs are left out: attn.k_scale, ")


def test_weights_without_a_scale_among_others_are_told() -> None:
    model = opened({"a.weight": codes(2, 2), "a.weight_scale": scales(1), "b.weight": codes(2, 2)})
    assert isinstance(model, Dequantized)
    assert model.notes == ("fp8: 1 float8 tensor(s) have no scale, others do: b.weight",)


W = codes(6, 4)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"a.weight_scale": scales(5)}, "has shape [6, 4], to which its scale 'a.weight_scale' of shape [5] does not"),
        ({"a.weight_scale": scales(4, 1)}, "'a.weight_scale' of shape [4, 1] does not fit"),
        ({"a.weight_scale": scales(2, 3, 2)}, "'a.weight_scale' of shape [2, 3, 2] does not fit"),
        ({"a.weight_scale": scales(0)}, "'a.weight_scale' of shape [0] does not fit"),
        ({"a.weight_scale": scales(7, 1)}, "'a.weight_scale' of shape [7, 1] does not fit"),
        ({"a.weight_scale": codes(6)}, "which is float8_e4m3fn [6], not a float"),
        ({"a.weight_scale": torch.ones(6, dtype=torch.int32)}, "which is int32 [6], not a float"),
        ({"a.weight_scale": scales(6), "a.weight_scale_inv": scales(6)}, "has more than one scale: a.weight_scale_inv"),
        ({"a.weight_scale": scales(6), "a.weight_zero_point": scales(6)}, "more than a scale is needed to decode it"),
        ({"a.weight_scale": scales(6), "a.weight_g_idx": torch.ones(4)}, "float8 with 'a.weight_g_idx'"),
        ({"a.rescale": scales(6)}, "is float8, and 'a.rescale' beside it may be its scale"),
        ({"a.weight.my_scale": scales(6)}, "is float8, and 'a.weight.my_scale' beside it may be its scale"),
        ({"b.weight": torch.ones(2), "b.weight_scale": scales(1)}, "but its weight 'b.weight' is float32, not float8"),
        ({"b.weight_scale_inv": scales(1)}, "tensor 'b.weight_scale_inv' is a scale, but its weight 'b.weight' is not"),
        ({"b.up_scale_inv": scales(1)}, "but its weight 'b.up' is not there"),
    ],
)
def test_planted_mistakes(extra: Mapping[str, torch.Tensor], said: str) -> None:
    text = complaint({"a.weight": W, **extra})
    assert text.startswith("fp8: tensor ")
    assert said in text
    assert "\n  -> " in text


def test_all_mistakes_are_told_at_once() -> None:
    text = complaint(
        {"a.weight": W, "a.scale": scales(5), "b.weight": W, "b.scale": scales(4), "c_scale_inv": scales(1)}
    )
    assert text.startswith("3 problems:")


@pytest.mark.parametrize(
    ("block", "scale", "said"),
    [
        ([2, 2], scales(2, 2), "of shape [2, 2] does not fit in blocks of [2, 2], as config.json says"),
        ([2, 2], None, "is float8_e4m3fn [6, 4] without a scale, but config.json says that blocks have scales"),
        ([2], scales(3, 2), "config.json: the size of the blocks that share a scale, [2], is not two positive numbers"),
        ([0, 2], scales(3, 2), "[0, 2], is not two positive numbers"),
        ("x", scales(3, 2), "'x', is not two positive numbers"),
    ],
)
def test_mistakes_against_the_config(tmp_path: Path, block: Any, scale: torch.Tensor | None, said: str) -> None:
    tensors = {"a.weight": W} | ({} if scale is None else {"a.weight_scale_inv": scale})
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    with pytest.raises(InputError) as caught:
        open_checkpoint(saved(tmp_path / "m", tensors, **config))
    assert said in str(caught.value)


@pytest.mark.parametrize("base", ["fp8", "bf16"])
def test_a_merge_with_a_bfloat16_model(tmp_path: Path, base: str) -> None:
    """Bits: the mean in float32 of the decoded numbers, rounded once to bfloat16."""
    w, s, other = codes(200, 130), scales(2, 2), torch.from_numpy(RNG.standard_normal((200, 130))).bfloat16()
    norm = torch.ones(130).bfloat16()
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    tensors = {"l.weight": w, "l.weight_scale_inv": s, "l.input_scale": scales(1), "norm.weight": norm}
    saved(tmp_path / "fp8", tensors, torch_dtype="float8_e4m3fn", quantization_config=config)
    saved(tmp_path / "bf16", {"l.weight": other, "norm.weight": norm}, torch_dtype="bfloat16")
    models = sorted(["fp8", "bf16"], reverse=base == "fp8")
    weft.merge_to({"method": "linear", "models": models, "folder": tmp_path}, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: (t.dtype, tuple(t.shape)) for name, t in merged.items()} == {
        "l.weight": (torch.bfloat16, (200, 130)),
        "norm.weight": (torch.bfloat16, (130,)),
    }
    mean = (w.double().numpy() * spread(s, (200, 130), 128, 128) + other.double().numpy()) / 2
    np.testing.assert_allclose(merged["l.weight"].double().numpy(), mean, rtol=2**-8, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"torch_dtype": "bfloat16"}


def test_a_merged_transformer_loads(tmp_path: Path) -> None:
    """Its config must not send the loader looking for scales."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, vocab_size=40), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    tensors = {}
    for name, t in load_file(tmp_path / "bf16" / "model.safetensors").items():
        tensors[name] = t
        if name.endswith("_proj.weight"):
            scale = t.float().abs().max() / 448
            tensors |= {name: (t.float() / scale).to(E4M3), name + "_scale_inv": scale.reshape(1, 1)}
    config = json.loads((tmp_path / "bf16" / "config.json").read_text())
    said = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    saved(tmp_path / "fp8", tensors, **config, quantization_config=said)
    weft.merge_to({"method": "linear", "models": ["fp8", "bf16"], "folder": tmp_path}, tmp_path / "out")
    loaded, told = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.dtype == torch.bfloat16
    for name, t in model.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], t, rtol=0.07, atol=1e-3), name


def test_in_memory_arrays_go_the_same_way() -> None:
    array = np.array([[1, 2], [3, 4]], ml_dtypes.float8_e4m3fn)
    model = {"w": array, "w_scale": np.array([2, 10], np.float32)}
    merged = weft.merge([model, {"w": np.zeros((2, 2), np.float32)}], dtype="float32")
    assert merged["w"].tolist() == [[1, 2], [15, 20]]


# Named tools.


def test_fbgemm_has_a_scale_for_each_row(tmp_path: Path) -> None:
    weight, scale = codes(6, 6), scales(6, 1)
    tensors = {"fc.weight": weight, "fc.weight_scale": scale, "fc.input_scale_ub": torch.tensor([1200.0])}
    config = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
    checkpoint = open_checkpoint(saved(tmp_path / "m", tensors, quantization_config=config))
    assert list(checkpoint.tensors) == ["fc.weight"]
    expected = weight.double().numpy() * scale.double().numpy()
    assert np.array_equal(whole(checkpoint, "fc.weight"), expected.astype(np.float32))
    checkpoint.close()


def test_modelopt_has_a_scale_for_each_weight(tmp_path: Path) -> None:
    weight, scale = codes(5, 7), scales()
    tensors = {
        "k_proj.weight": weight, "k_proj.weight_scale": scale, "k_proj.input_scale": torch.tensor(0.5),
        "k_proj.k_scale": torch.tensor(0.25), "norm.weight": torch.ones(7),
    }  # fmt: skip
    linear = {"dynamic": False, "num_bits": 8, "type": "float"}
    config = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"], "config_groups": {}}
    config["config_groups"] = {"group_0": {"weights": linear, "input_activations": linear, "targets": ["Linear"]}}
    model = saved(tmp_path / "m", tensors, quantization_config=config)
    checkpoint = open_checkpoint(model)
    assert sorted(checkpoint.tensors) == ["k_proj.weight", "norm.weight"]
    expected = (weight.double().numpy() * scale.double().item()).astype(np.float32)
    assert np.array_equal(whole(checkpoint, "k_proj.weight"), expected)
    checkpoint.close()
    weft.merge_to({"method": "linear", "models": [str(model), str(model)]}, tmp_path / "out")
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(out["k_proj.weight"], torch.from_numpy(expected).bfloat16())
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize(
    ("method", "weight", "scale", "says"),
    [
        (("fbgemm_fp8", ""), (2, 6, 6), (2, 6, 1), "which of its axes the scale 'fc.weight_scale' runs along"),
        (("modelopt", "FP8"), (6, 6), (6,), "shape [6], but ModelOpt's FP8 has one for all"),
        (("modelopt", "FP8_PB_WO"), (6, 6), (), "is quantised with NVIDIA ModelOpt"),
        (("modelopt", "MIXED_PRECISION"), (6, 6), (), "is quantised with NVIDIA ModelOpt"),
    ],
)
def test_what_is_not_documented_is_refused(
    tmp_path: Path, method: tuple[str, str], weight: tuple[int, ...], scale: tuple[int, ...], says: str
) -> None:
    tensors = {"fc.weight": codes(*weight), "fc.weight_scale": scales(*scale)}
    with pytest.raises(InputError) as caught:
        said = {"quant_method": method[0], "quant_algo": method[1]}
        open_checkpoint(saved(tmp_path / "m", tensors, quantization_config=said))
    assert says in str(caught.value)
    assert "merge the 16-bit model that it was made from" in str(caught.value)
