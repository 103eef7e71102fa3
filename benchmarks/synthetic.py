"""Synthetic checkpoints of realistic shape, made by several threads and without holding a model in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.layout import Shard, lay_out
from weft.kernels.dtypes import BFLOAT16, BY_NAME, FLOAT32, DType

FLOAT8 = BY_NAME["float8_e4m3fn"]
SPREAD = np.float32(0.02)
"""Standard deviation of a weight."""
CHANGE = np.float32(0.001)
"""Standard deviation of what a fine-tune changes."""
FISHER = 1e-6
"""Mean of a Fisher's entries."""

_CHUNK = 1 << 16
_BLOCK = 128
_SCALE = np.float32(SPREAD / 64)
_SHARD = 400 * 10**6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Model:
    """A checkpoint to be written.

    Attributes:
        specs: its tensors.
        seed: 0 is the base; any other number is a fine-tune of it, whose changes are decided by the seed.
        kind: `weights`, or `fisher` for a diagonal Fisher with its norm in the metadata.
        filled: the share of every tensor, from its beginning, that holds numbers; the rest is zero, as the rows that an
            embedding reserves, and takes no room on disk.
        config: what `config.json` says; none is written if it says nothing.
    """

    specs: Sequence[TensorSpec]
    seed: int
    kind: str = "weights"
    filled: float = 1.0
    config: Mapping[str, Any] = field(default_factory=dict)


def llama_like(
    layers: int = 24, hidden: int = 896, inner: int = 4864, kv: int = 128, vocabulary: int = 151936
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama-like model; the defaults have 494 million parameters, embeddings tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= _attention(prefix, hidden, kv)
        shapes |= {
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    return {**shapes, "model.norm.weight": (hidden,)}


def experts_like(
    layers: int = 48, experts: int = 206, hidden: int = 128, inner: int = 96, vocabulary: int = 16384
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a mixture of experts, one tensor for each of their matrices: by default 30,002 small ones."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= _attention(prefix, hidden, hidden // 4)
        shapes[f"{prefix}.mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            shapes |= {
                f"{prefix}.mlp.experts.{expert}.gate_proj.weight": (inner, hidden),
                f"{prefix}.mlp.experts.{expert}.up_proj.weight": (inner, hidden),
                f"{prefix}.mlp.experts.{expert}.down_proj.weight": (hidden, inner),
            }
    return {**shapes, "model.norm.weight": (hidden,)}


def _attention(prefix: str, hidden: int, kv: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
        f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
        f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
        f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
        f"{prefix}.input_layernorm.weight": (hidden,),
        f"{prefix}.post_attention_layernorm.weight": (hidden,),
    }


def stored(shapes: Mapping[str, tuple[int, ...]], dtype: DType = BFLOAT16) -> list[TensorSpec]:
    """The tensors in one number format; in float8 the matrices of the layers, with a scale for each block of them."""
    return [spec for name, shape in shapes.items() for spec in _stored(name, shape, dtype)]


def _stored(name: str, shape: tuple[int, ...], dtype: DType) -> Iterator[TensorSpec]:
    if dtype != FLOAT8:
        yield TensorSpec(name, dtype, shape)
    elif "_proj" not in name:
        yield TensorSpec(name, BFLOAT16, shape)
    else:
        yield TensorSpec(name, FLOAT8, shape)
        yield TensorSpec(f"{name}_scale_inv", FLOAT32, tuple(math.ceil(n / _BLOCK) for n in shape))


def llama_config(layers: int, vocabulary: int, dtype: DType = BFLOAT16) -> dict[str, Any]:
    """The `config.json` of `llama_like`, as far as programs ask for it."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": (BFLOAT16 if dtype == FLOAT8 else dtype).name,
    }
    if dtype == FLOAT8:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [_BLOCK, _BLOCK]}
    return config


def write_model(folder: Path, model: Model) -> None:
    """Write a checkpoint as a folder with shards; nothing is done if it is there.

    A fine-tune is rounded to its number format after the change to a base rounded likewise, so that it is one that is
    *stored* in that format: changes take few values, and tie.
    """
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    layout = lay_out(model.specs, "model", _SHARD, {"format": "pt", **_norm(model)})
    for name, content in layout.indices.items():
        (partial / name).write_bytes(content)
    if model.config:
        (partial / "config.json").write_text(json.dumps(dict(model.config)))
    places = {spec.name: k for k, spec in enumerate(model.specs)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard in layout.shards:
            _write_shard(partial / shard.name, shard, model, places, pool)
    partial.rename(folder)


def _norm(model: Model) -> dict[str, str]:
    """The norm of a Fisher, which is a square of normal numbers: their fourth moment is 3."""
    count = sum(spec.size for spec in model.specs)
    return {"norm": repr(FISHER * math.sqrt(3 * count))} if model.kind == "fisher" else {}


def _write_shard(path: Path, shard: Shard, model: Model, places: Mapping[str, int], pool: ThreadPoolExecutor) -> None:
    with path.open("wb") as file:
        file.write(shard.header)
        file.truncate(shard.size)
        file.flush()

        def write(piece: tuple[TensorSpec, int, int, int]) -> None:
            spec, place, start, count = piece
            bits = _values(model, spec, (place, start), count)
            os.pwrite(file.fileno(), bits.data, shard.offsets[spec.name] + start * spec.dtype.itemsize)

        for _ in pool.map(write, _pieces(shard, model, places)):
            pass


def _pieces(shard: Shard, model: Model, places: Mapping[str, int]) -> Iterator[tuple[TensorSpec, int, int, int]]:
    """Ranges of tensors: the tensor, its place in the model, the first element, how many."""
    for name in shard.offsets:
        spec = model.specs[places[name]]
        filled = int(spec.size * model.filled)
        for start in range(0, filled, _CHUNK):
            yield spec, places[name], start, min(_CHUNK, filled - start)


def _values(model: Model, spec: TensorSpec, at: tuple[int, int], count: int) -> Array:
    """The numbers of a range as they are stored."""
    if spec.name.endswith("_scale_inv"):
        return np.full(count, _SCALE)
    encode, decode = _FORMATS[spec.dtype.name]
    if model.kind == "fisher":
        return encode(np.square(_normal([model.seed, *at], count)) * np.float32(FISHER))
    base = encode(_normal([0, *at], count) * SPREAD)
    return encode(decode(base) + _normal([model.seed, *at], count) * CHANGE) if model.seed else base


def _normal(seed: Sequence[int], count: int) -> Array:
    """Normal numbers, of which there are 65,536; several times faster to draw than from all."""
    return np.take(_QUANTILES, np.random.default_rng(seed).integers(0, len(_QUANTILES), count, np.uint16))


_QUANTILES = np.array([NormalDist().inv_cdf((k + 0.5) / 65536) for k in range(65536)], np.float32)


def _to_bfloat16(values: Array) -> Array:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _of_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


_FORMATS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "bfloat16": (_to_bfloat16, _of_bfloat16),
    "float16": (lambda values: values.astype(np.float16), lambda stored: stored.astype(np.float32)),
    "float32": (lambda values: values, lambda stored: stored),
    "float8_e4m3fn": (
        lambda values: (values / _SCALE).astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
        lambda codes: codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * _SCALE,
    ),
}
"""How numbers become what is stored, and numbers again."""
