"""What cannot be merged is refused by name, each with its own remedy, before anything is read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weft
from weft.checkpoints.header import header_bytes
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

PLAIN = {"layer.weight": np.zeros((2, 3), np.float32), "layer.bias": np.zeros(2, np.float32)}
ORIGINAL = "merge the 16-bit model that it was made from"


def complaint(source: object) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(source)
    text = str(caught.value)
    assert "\n  -> " in text, "there is a remedy"
    return text


def model(folder: Path, config: Any = None, tensors: dict[str, Any] | None = None, name: str = "config.json") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors or PLAIN, folder / "model.safetensors")
    if config is not None:
        (folder / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


# --- quantised --------------------------------------------------------------------------------------------------------


def compressed(weights: Any, **others: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}, **others}


INT4 = {"num_bits": 4, "type": "int"}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


@pytest.mark.parametrize(
    ("said", "label", "remedy"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ, 4 bit", f"{ORIGINAL}, then quantise the result with GPTQModel"),
        ({"quant_method": "awq", "bits": 4}, "AWQ, 4 bit", f"{ORIGINAL}, then quantise the result with llm-compressor"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bit", "BitsAndBytesConfig"),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "bitsandbytes, 8 bit", "model.dequantize()"),
        (compressed(INT4), "compressed-tensors", "llm-compressor"),
        (compressed({"num_bits": 4, "type": "float"}), "compressed-tensors", "llm-compressor"),
        (compressed(FLOAT8, sparsity_config={"format": "sparse-24-bitmask"}), "compressed-tensors", "llm-compressor"),
        ({"quant_method": "mxfp4"}, "MXFP4", "Mxfp4Config(dequantize=True)"),
        ({"quant_method": "hqq"}, "HQQ", "HQQ"),
        ({"quant_method": "torchao"}, "torchao", ORIGINAL),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVIDIA ModelOpt", ORIGINAL),
        ({"quant_method": "aqlm"}, "aqlm", f"{ORIGINAL}, then quantise the result with the same tool"),
    ],
)
def test_a_config_that_tells_of_quantisation(tmp_path: Path, said: dict[str, Any], label: str, remedy: str) -> None:
    for config in (
        {"quantization_config": said},
        {"text_config": {"quantization_config": said}},
        {"compression_config": said},
    ):
        text = complaint(model(tmp_path / "m", config))
        expected = f"{tmp_path / 'm'}: is quantised with {label} (config.json); its codes are not numbers"
        assert expected in text
        assert remedy in text.split("->")[1]


def test_older_places_to_tell_of_it(tmp_path: Path) -> None:
    assert "quantised with GPTQ, 4 bit (quantize_config.json)" in complaint(
        model(tmp_path / "a", {"bits": 4, "group_size": 128}, name="quantize_config.json")
    )
    assert "quantised with AWQ, 4 bit (quant_config.json)" in complaint(
        model(tmp_path / "b", {"w_bit": 4, "zero_point": True}, name="quant_config.json")
    )
    text = complaint(model(tmp_path / "c", {"quantization": {"bits": 4, "group_size": 64}}))
    assert "quantised with MLX, 4 bit (config.json)" in text
    assert "mlx_lm.convert" in text
    groups = {"compression_config": {"config_groups": {"g": {"weights": INT4}}}}
    assert "quantised with compressed-tensors" in complaint(model(tmp_path / "d", groups))


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        {"quantization_config": compressed(FLOAT8, format="float-quantized")},
        {"quantization_config": compressed(FLOAT8, sparsity_config={"format": "dense"})},
        {"quantization_config": compressed(None, kv_cache_scheme={"num_bits": 8, "type": "float"})},
    ],
)
def test_plain_models_and_float8_pass(tmp_path: Path, config: Any) -> None:
    assert len(open_checkpoint(model(tmp_path / "m", config)).tensors) == 2


CODES = np.zeros((2, 3), np.int32)
BYTES = np.zeros((2, 3), np.uint8)
SCALES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {"l.qweight": CODES, "l.qzeros": CODES, "l.scales": SCALES, "l.g_idx": CODES},
            "with GPTQ (tensor 'l.qweight')",
        ),
        ({"l.qweight": CODES, "l.qzeros": CODES, "l.scales": SCALES}, "with AWQ or GPTQ (tensor 'l.qweight')"),
        ({"l.qweight": CODES, "l.scales": SCALES}, "with AWQ or GPTQ (tensor 'l.qweight')"),
        (
            {"l.weight": BYTES, "l.weight.absmax": SCALES, "l.weight.quant_map": SCALES},
            "with bitsandbytes, 4 bit (tensor 'l.weight.absmax')",
        ),
        ({"l.weight": BYTES.view(np.int8), "l.SCB": SCALES}, "with bitsandbytes, 8 bit (tensor 'l.SCB')"),
        ({"l.weight_packed": CODES, "l.weight_scale": SCALES}, "with compressed-tensors (tensor 'l.weight_packed')"),
        ({"l.compressed": SCALES, "l.bitmask": BYTES}, "with compressed-tensors (tensor 'l.compressed')"),
        ({"l.W_q": BYTES, "l.scale": SCALES}, "with HQQ (tensor 'l.W_q')"),
        ({"e.up_proj_blocks": BYTES, "e.up_proj_scales": BYTES}, "with MXFP4, 4 bit (tensor 'e.up_proj_blocks')"),
        ({"l.weight": CODES, "l.scales": SCALES, "l.biases": SCALES}, "with MLX (tensor 'l.weight')"),
        ({"l.weight": BYTES, "l.weight_scale": SCALES}, "with integer codes and scales (tensor 'l.weight')"),
    ],
)
def test_tensors_that_betray_quantisation_without_a_config(tmp_path: Path, tensors: dict[str, Any], says: str) -> None:
    tensors = {"norm.weight": SCALES, **tensors}
    folder = model(tmp_path / "m", tensors=tensors)
    torch.save({n: torch.from_numpy(t) for n, t in tensors.items()}, tmp_path / "x.bin")
    for source in (folder, folder / "model.safetensors", tmp_path / "x.bin", tensors):
        assert says in complaint(source)


@pytest.mark.parametrize(
    "names",
    [
        ("l.scales", "l.biases"),
        ("l.weight", "l.scales", "l.biases"),
        ("down_blocks", "down_scales"),
        ("l.weight", "l.weight_scale"),
        ("l.absmax", "l.quant_map"),
        ("a.qweight", "b.scales"),
    ],
)
def test_names_that_only_look_alike_pass(names: tuple[str, ...]) -> None:
    assert len(open_checkpoint(dict.fromkeys(names, SCALES)).tensors) == len(names)


# --- other formats ----------------------------------------------------------------------------------------------------

FORMATS = [
    ("model-Q4_K_M.gguf", b"GGUF\x03\0\0\0", "GGUF, llama.cpp's format", "convert_hf_to_gguf.py"),
    ("model.ggml", b"lmgg\0", "GGML, llama.cpp's format", ORIGINAL),
    ("ggml-model-q4_0.bin", b"tjgg\0", "GGML, llama.cpp's format", ORIGINAL),
    ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "TensorFlow or Keras weights", "save_pretrained writes safetensors"),
    ("saved_model.pb", b"\x08\x01", "a TensorFlow SavedModel", "save_pretrained writes safetensors"),
    ("model.ckpt.index", b"\0\0", "a TensorFlow checkpoint", "save_pretrained writes safetensors"),
    ("model.ckpt.data-00000-of-00001", b"\0\0", "a TensorFlow checkpoint", "save_pretrained writes safetensors"),
    ("flax_model.msgpack", b"\x81\xa6", "Flax weights", "save_pretrained writes safetensors"),
    ("model.onnx", b"\x08\x07", "ONNX, a format for inference", "then export the result"),
    ("openvino_model.bin", b"\0\1\2", "OpenVINO, a format for inference", "then export the result"),
    ("model.tflite", b"\x1c\0", "a TensorFlow Lite model", "merge the model that it was made from"),
    ("rust_model.ot", b"\0", "weights for Rust's tch", "save_pretrained writes safetensors"),
    ("weights.npz", b"PK\x05\x06" + b"\0" * 18, "numpy arrays", "safetensors.numpy.save_file"),
    ("__0_0.distcp", b"\0", "a distributed torch checkpoint", "dcp_to_torch"),
]


@pytest.mark.parametrize(("name", "content", "says", "remedy"), FORMATS, ids=[name for name, *_ in FORMATS])
def test_files_and_folders_of_other_formats(tmp_path: Path, name: str, content: bytes, says: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    text = complaint(tmp_path / name)
    assert f"{tmp_path / name}: this is {says}" in text
    assert remedy in text
    text = complaint(tmp_path)
    assert name in text
    assert f"this is {says}" in text
    assert remedy in text


def test_onnx_in_its_usual_place_and_a_deepspeed_folder(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"\x08\x07")
    assert "but onnx/model.onnx: this is ONNX" in complaint(tmp_path)
    (tmp_path / "onnx" / "model.onnx").unlink()
    (tmp_path / "zero_to_fp32.py").write_text("")
    assert "this is a DeepSpeed checkpoint\n  -> join it: python zero_to_fp32.py" in complaint(tmp_path)


def test_weights_are_found_beside_other_formats(tmp_path: Path) -> None:
    for name, content, *_ in FORMATS:
        (tmp_path / name).write_bytes(content)
    assert len(open_checkpoint(model(tmp_path)).tensors) == 2


# --- an adapter -------------------------------------------------------------------------------------------------------


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.l.lora_A.weight": SCALES}, folder / "adapter_model.safetensors")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth"):
        (folder / name).write_bytes(b"\x80")
    return folder


def test_a_lora_adapter_is_not_a_model(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora", peft_type="LORA", base_model_name_or_path="org/base", r=8)
    text = complaint(folder)
    assert f"{folder}: this is a LoRA adapter (adapter_config.json), not a model" in text
    assert f"name both: `path: org/base` with `adapter: {folder}`" in text
    assert "`path: the model that it was trained on`" in complaint(adapter(tmp_path / "lora", r=8))


def test_another_kind_of_adapter(tmp_path: Path) -> None:
    text = complaint(adapter(tmp_path / "ia3", peft_type="IA3", base_model_name_or_path="org/base"))
    assert "this is a PEFT adapter of type IA3, not a model" in text
    assert "merge_and_unload" in text


def test_a_model_with_an_adapter_beside_it_is_a_model(tmp_path: Path) -> None:
    assert "layer.bias" in open_checkpoint(model(adapter(tmp_path / "m", peft_type="LORA"))).tensors


# --- not weights at all -----------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


def archive(kind: str) -> bytes:
    memory = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(memory, "w") as file:
            file.writestr("weights/model.safetensors", b"x")
        return memory.getvalue()
    with tarfile.open(
        fileobj=memory, mode={"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[kind]
    ) as tar:
        tar.addfile(tarfile.TarInfo("weights/model.safetensors"))
    return memory.getvalue()


NOT_WEIGHTS = {
    "pointer": (POINTER, "a Git LFS pointer in place of the weights of 4,976,698,672 bytes", "run `git lfs pull` in "),
    "page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page that was saved", "`resolve`, not `blob`"),
    "bare page": (b"<html>", "a web page that was saved", "a gated model needs a token"),
    "json": (b'{"error":"Repository not found"}', "a server's message (JSON)", "download the file itself"),
    "xml": (b'<?xml version="1.0"?><Error>', "a server's message (XML)", "download the file itself"),
    "nothing": (b"", "the file is empty", "download it again"),
    "zip": (archive("zip"), "a zip archive, not a checkpoint", "unpack it"),
    "cut zip": (archive("zip")[:40], "a zip archive, as torch.save writes them, that is damaged", "download it again"),
    "tar": (archive("tar"), "a tar archive", "unpack it"),
    "tar.gz": (archive("tar.gz"), "a gzip archive", "unpack it"),
    "tar.xz": (archive("tar.xz"), "an xz archive", "unpack it"),
    "tar.bz2": (archive("tar.bz2"), "a bzip2 archive", "unpack it"),
    "gguf": (b"GGUF\x03\0\0\0" * 20, "GGUF", ORIGINAL),
    "hdf5": (b"\x89HDF\r\n\x1a\n" * 20, "TensorFlow or Keras weights", "save_pretrained"),
    "npy": (b"\x93NUMPY\x01\0", "a numpy array", "safetensors.numpy.save_file"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".ckpt"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_a_file_that_is_not_the_weights_its_name_promises(tmp_path: Path, suffix: str, kind: str) -> None:
    content, says, remedy = NOT_WEIGHTS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    for source in (path, tmp_path):
        text = complaint(source)
        assert str(path) in text
        assert says in text
        assert remedy in text


def test_a_shard_that_is_only_a_pointer(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "model-1.safetensors")
    (tmp_path / "model-2.safetensors").write_bytes(POINTER)
    weight_map = {**dict.fromkeys(PLAIN, "model-1.safetensors"), "x": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert f"{tmp_path / 'model-2.safetensors'}: this is a Git LFS pointer" in complaint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(POINTER)
    assert "index.json: this is a Git LFS pointer" in complaint(tmp_path / "model.safetensors.index.json")


def test_one_kind_of_weights_under_the_name_of_another(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.bin")
    (tmp_path / "a.bin").rename(tmp_path / "a.safetensors")
    assert "this is a torch pickle, not safetensors\n  -> give it the suffix .bin" in complaint(
        tmp_path / "a.safetensors"
    )
    torch.save({"w": torch.ones(2)}, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "b.bin").rename(tmp_path / "b.safetensors")
    assert "this is a pickle, not safetensors" in complaint(tmp_path / "b.safetensors")
    save_file(PLAIN, tmp_path / "c.pt")
    assert "this is a safetensors file by its content\n  -> give it the suffix" in complaint(tmp_path / "c.pt")


def test_a_torchscript_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/__torch__.py"):
            file.writestr(name, b"")
    text = complaint(tmp_path / "x.pt")
    assert "this is a TorchScript program, which holds code beside the weights" in text
    assert "torch.jit.load(FILE).state_dict()" in text


@pytest.mark.parametrize("beginning", [b"\x1f\x8b\x00\x00", b"BZh\x00"])
def test_a_header_whose_length_spells_something_is_still_a_header(tmp_path: Path, beginning: bytes) -> None:
    length = int.from_bytes(beginning, "little")
    text = header_bytes([], {})[8:]
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little") + text + b" " * (length - len(text)))
    assert not open_checkpoint(tmp_path / "x.safetensors").tensors


def test_several_refusals_are_told_together(tmp_path: Path) -> None:
    quantised = model(tmp_path / "q", {"quantization_config": {"quant_method": "gptq"}})
    lora = adapter(tmp_path / "lora", peft_type="LORA", base_model_name_or_path="org/base")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError) as caught:
        weft.merge([str(quantised), str(lora), str(tmp_path / "x.gguf")], method="linear")
    text = str(caught.value)
    assert text.startswith("3 problems:")
    assert all(part in text for part in ("model 'q': ", "quantised with GPTQ", "a LoRA adapter", "this is GGUF"))
