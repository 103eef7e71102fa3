"""What cannot be merged, recognised by what it is: quantised models, other formats, files that are not weights at all.

Every refusal says what the thing is and what to do instead. Nothing here reads more than the beginning of a file.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.header import LONGEST
from weft.checkpoints.plain_files import open_file, read_json
from weft.errors import InputError, Problem
from weft.kernels.dtypes import Kind

ADAPTER_CONFIG = "adapter_config.json"

_HEAD = 512
_AGAIN = "download it again, or save the model again: save_pretrained writes safetensors"
_CONVERT = "load it with transformers and save it again: save_pretrained writes safetensors"
_ORIGINAL = "merge the 16-bit model that it was made from"

# --- files ------------------------------------------------------------------------------------------------------------

_GGUF = Problem("llama.cpp's format for inference", f"{_ORIGINAL}, then convert the result: convert_hf_to_gguf.py")

_BY_NAME: Mapping[str, Problem] = {
    "*.gguf": Problem(f"GGUF, {_GGUF.what}", _GGUF.remedy),
    "*.ggml": Problem(f"GGML, {_GGUF.what}", _GGUF.remedy),
    "ggml-*.bin": Problem(f"GGML, {_GGUF.what}", _GGUF.remedy),
    "*.h5": Problem("TensorFlow or Keras weights (HDF5)", _CONVERT),
    "*.keras": Problem("a Keras model", "save its weights as a dict of arrays with safetensors.numpy.save_file"),
    "*.ckpt.index": Problem("a TensorFlow checkpoint", _CONVERT),
    "*.ckpt.data-*": Problem("a TensorFlow checkpoint", _CONVERT),
    "saved_model.pb": Problem("a TensorFlow SavedModel", _CONVERT),
    "*.tflite": Problem("a TensorFlow Lite model, made for inference", "merge the model that it was made from"),
    "*.msgpack": Problem("Flax weights", _CONVERT),
    "*.onnx": Problem(
        "ONNX, a format for inference", "merge the model that it was exported from, then export the result"
    ),
    "openvino_model.*": Problem(
        "OpenVINO, a format for inference", "merge the model that it was exported from, then export the result"
    ),
    "*.ot": Problem("weights for Rust's tch", _CONVERT),
    "*.npz": Problem("numpy arrays", "load them with numpy and save them with safetensors.numpy.save_file"),
    "*.distcp": Problem(
        "a distributed torch checkpoint",
        "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt",
    ),
    "zero_to_fp32.py": Problem(
        "a DeepSpeed checkpoint", "join it: python zero_to_fp32.py . model --safe_serialization"
    ),
}

_ARCHIVE = "unpack it and name the file or folder in it that holds the weights"
_PAGE = Problem(
    "a web page that was saved under the name of weights",
    "download the file itself (on the Hub the address says `resolve`, not `blob`); a gated model needs a token",
)
_BY_BEGINNING: Mapping[bytes, Problem] = {
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<?xml": Problem("a server's message (XML) that was saved under the name of weights", _PAGE.remedy),
    b'{"error"': Problem("a server's message (JSON) that was saved under the name of weights", _PAGE.remedy),
    b"gguf": _BY_NAME["*.gguf"],
    **dict.fromkeys((b"lmgg", b"fmgg", b"tjgg"), _BY_NAME["*.ggml"]),
    b"\x89hdf\r\n": _BY_NAME["*.h5"],
    b"\x93numpy": Problem("a numpy array", _BY_NAME["*.npz"].remedy),
    b"\x1f\x8b": Problem("a gzip archive", _ARCHIVE),
    b"bzh": Problem("a bzip2 archive", _ARCHIVE),
    b"\xfd7zxz": Problem("an xz archive", _ARCHIVE),
    b"7z\xbc\xaf\x27\x1c": Problem("a 7z archive", _ARCHIVE),
    b"\x28\xb5\x2f\xfd": Problem("a zstd archive", _ARCHIVE),
}
"""In lower case, as the beginning is compared."""


def refuse_file(file: Path) -> None:
    """Refuse a file that is not the weights that its name promises.

    Raises:
        InputError: naming what it is.
    """
    try:
        with open_file(file) as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "check the path and the permissions") from None
    problem = _by_content(file, head) or _by_name(file)
    if problem is not None:
        raise InputError(f"{file}: {problem.what}", problem.remedy)


def _by_name(file: Path) -> Problem | None:
    found = next((p for pattern, p in _BY_NAME.items() if fnmatch(file.name.lower(), pattern)), None)
    return Problem(f"this is {found.what}", found.remedy) if found else None


def _by_content(file: Path, head: bytes) -> Problem | None:
    if not head:
        return Problem("the file is empty", _AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return _pointer(file, head)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST:  # whatever the length happens to spell
        return _misnamed(file)
    if head.startswith(b"PK\x03\x04"):
        return _zip(file)
    if head[257:262] == b"ustar":
        return Problem("this is a tar archive", _ARCHIVE)
    if head.startswith(b"\x80") and file.suffix == ".safetensors":
        return Problem("this is a pickle, not safetensors", "if torch saved it, give it the suffix .bin")
    beginning = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = next((p for prefix, p in _BY_BEGINNING.items() if beginning.startswith(prefix)), None)
    return Problem(f"this is {found.what}", found.remedy) if found else None


def _pointer(file: Path, head: bytes) -> Problem:
    size = re.search(rb"^size (\d{1,18})$", head, re.MULTILINE)
    instead = f" of {int(size[1]):,} bytes" if size else ""
    return Problem(
        f"this is a Git LFS pointer in place of the weights{instead}",
        f"fetch them: run `git lfs pull` in {file.parent}, or download the model with `hf download`",
    )


def _misnamed(file: Path) -> Problem | None:
    if file.suffix == ".safetensors":
        return None
    return Problem("this is a safetensors file by its content", "give it the suffix .safetensors")


def _zip(file: Path) -> Problem | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return Problem("this is a zip archive, as torch.save writes them, that is damaged or was cut off", _AGAIN)
    known = _by_name(file)
    if known is not None:
        return known
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return Problem(
            "this is a TorchScript program, which holds code beside the weights",
            "where you trust it, save torch.jit.load(FILE).state_dict() with safetensors.torch.save_file",
        )
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return Problem("this is a zip archive, not a checkpoint", _ARCHIVE)
    if file.suffix == ".safetensors":
        return Problem("this is a torch pickle, not safetensors", "give it the suffix .bin")
    return None


# --- folders ----------------------------------------------------------------------------------------------------------


def folder_in_another_format(folder: Path) -> InputError | None:
    """What to say of a folder without a checkpoint that Weft reads, if it holds one that is known."""
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(folder)
    places = (*sorted(folder.iterdir()), *sorted(folder.glob("onnx/*")))
    for pattern, problem in _BY_NAME.items():
        found = [p for p in places if fnmatch(p.name.lower(), pattern)]
        if found:
            what = f"{folder}: holds no safetensors or torch weights, but {found[0].relative_to(folder)}"
            return InputError(f"{what}: this is {problem.what}", problem.remedy)
    return None


def _adapter(folder: Path) -> InputError:
    config = _json(folder / ADAPTER_CONFIG)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if isinstance(kind, str) and kind.upper() != "LORA":
        remedy = "add it to its base first (peft's merge_and_unload), save that, and merge it"
        return InputError(f"{folder}: this is a PEFT adapter of type {kind}, not a model", remedy)
    base = base if isinstance(base, str) and base else "the model that it was trained on"
    remedy = f"name both: `path: {base}` with `adapter: {folder}`"
    return InputError(f"{folder}: this is a LoRA adapter ({ADAPTER_CONFIG}), not a model", remedy)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if it cannot be read, which is for others to complain about."""
    try:
        parsed = read_json(path)
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


# --- quantisation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Quantiser:
    """A way to quantise: what people call it, and how to get from it to something that can be merged."""

    label: str
    remedy: str


def _requantise(label: str, tool: str) -> _Quantiser:
    return _Quantiser(label, f"{_ORIGINAL}, then quantise the result with {tool}")


_BITSANDBYTES = _Quantiser(
    "bitsandbytes",
    f"{_ORIGINAL}, then quantise the result when you load it (BitsAndBytesConfig); or, at a loss, load this one with "
    "transformers, call model.dequantize() and save_pretrained",
)
_QUANTISERS: Mapping[str, _Quantiser] = {
    "gptq": _requantise("GPTQ", "GPTQModel"),
    "awq": _requantise("AWQ", "llm-compressor"),
    "bitsandbytes": _BITSANDBYTES,
    "bitsandbytes_4bit": _BITSANDBYTES,
    "bitsandbytes_8bit": _BITSANDBYTES,
    "compressed-tensors": _requantise("compressed-tensors", "llm-compressor"),
    "mxfp4": _Quantiser(
        "MXFP4",
        "load it with transformers and Mxfp4Config(dequantize=True), save it with save_pretrained, and merge that",
    ),
    "mlx": _Quantiser("MLX", f"{_ORIGINAL}, then quantise the result with mlx_lm.convert"),
    "modelopt": _requantise("NVIDIA ModelOpt", "ModelOpt"),
    "hqq": _requantise("HQQ", "HQQ"),
    "torchao": _requantise("torchao", "torchao"),
}


def refuse_quantised_folder(folder: Path) -> None:
    """Refuse a model whose configuration says that its weights are codes. Plain float8 passes.

    Raises:
        InputError: naming the method and the file that says so.
    """
    for name, path_in in (("config.json", _quantisation), ("quantize_config.json", _gptq), ("quant_config.json", _awq)):
        said = path_in(_json(folder / name))
        if said and not _is_float8(said):
            method = str(said.get("quant_method", "an unknown method"))
            raise InputError(*_refusal(str(folder), method, _bits(said), name))


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a model's configuration that describes quantisation, wherever it stands; empty if there is none."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(place.get(key), dict) and place[key].get("quant_method"):
                return dict(place[key])
            if isinstance(place.get(key), dict) and "config_groups" in place[key]:
                return {**place[key], "quant_method": "compressed-tensors"}
        if isinstance(place.get("quantization"), dict) and "bits" in place["quantization"]:
            return {**place["quantization"], "quant_method": "mlx"}
    return {}


def _gptq(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"quant_method": "gptq", **config} if "bits" in config else {}


def _awq(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"quant_method": "awq", **config} if "w_bit" in config else {}


def _is_float8(said: Mapping[str, Any]) -> bool:
    """Whether weights are float8 numbers with scales, which can be decoded."""
    if said.get("quant_method") == "modelopt":
        return said.get("quant_algo") == "FP8"
    if said.get("quant_method") != "compressed-tensors":
        return said.get("quant_method") in ("fp8", "fbgemm_fp8")
    sparsity = said.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return False
    groups = said.get("config_groups")
    schemes = [g.get("weights") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else [{}]
    return all(
        s is None or (isinstance(s, dict) and (s.get("type"), s.get("num_bits")) == ("float", 8)) for s in schemes
    )


def _bits(said: Mapping[str, Any]) -> int | None:
    if said.get("load_in_4bit") or said.get("_load_in_4bit"):
        return 4
    if said.get("load_in_8bit") or said.get("_load_in_8bit"):
        return 8
    bits = said.get("bits", said.get("w_bit"))
    return bits if isinstance(bits, int) else None


def _refusal(where: str, method: str, bits: int | None, witness: str) -> tuple[str, str]:
    known = _QUANTISERS.get(method.lower(), _requantise(method, "the same tool"))
    size = f", {bits} bit" if bits else ""
    what = f"{where}: is quantised with {known.label}{size} ({witness}); its codes are not numbers that can be averaged"
    return what, known.remedy


@dataclass(frozen=True)
class _Signature:
    """Tensors that only a quantised layer has: names that end so, all on one layer.

    Attributes:
        are_codes: whether the first of them must hold integers, where the names alone could be anyone's.
    """

    method: str
    endings: tuple[str, ...]
    bits: int | None = None
    are_codes: bool = False


_SIGNATURES = (
    _Signature("gptq", (".qweight", ".g_idx")),
    _Signature("AWQ or GPTQ", (".qweight", ".qzeros")),
    _Signature("AWQ or GPTQ", (".qweight", ".scales")),
    _Signature("bitsandbytes", (".weight.absmax", ".weight.quant_map"), 4),
    _Signature("bitsandbytes", (".SCB",), 8),
    _Signature("compressed-tensors", (".weight_packed",)),
    _Signature("compressed-tensors", (".compressed", ".bitmask")),
    _Signature("hqq", (".W_q",)),
    _Signature("mxfp4", ("_blocks", "_scales"), 4, are_codes=True),
    _Signature("mlx", (".weight", ".scales", ".biases"), are_codes=True),
    _Signature("integer codes and scales", (".weight", ".weight_scale"), are_codes=True),
)


def refuse_quantised_tensors(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose tensors are those of a quantised model, whatever its configuration says.

    Raises:
        InputError: naming the method and the tensor that betrays it.
    """
    holds_codes = any(spec.dtype.kind is Kind.EXACT for spec in checkpoint.tensors.values())
    for signature in _SIGNATURES:
        if signature.are_codes and not holds_codes:
            continue
        witness = _witness(checkpoint, signature)
        if witness is not None:
            raise InputError(*_refusal(checkpoint.label, signature.method, signature.bits, f"tensor {witness!r}"))


def _witness(checkpoint: Checkpoint, signature: _Signature) -> str | None:
    first, *others = signature.endings
    for name in [name for name in checkpoint.tensors if name.endswith(first)]:
        layer = name.removesuffix(first)
        holds_codes = checkpoint.tensors[name].dtype.kind is Kind.EXACT or not signature.are_codes
        if holds_codes and all(layer + other in checkpoint.tensors for other in others):
            return name
    return None
