"""Synthetic checkpoints of realistic shape, made without holding a model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.layout import lay_out
from weft.checkpoints.staging import staging
from weft.kernels.dtypes import BFLOAT16

_CHUNK = 1 << 22


def llama_like(
    layers: int = 24, hidden: int = 896, inner: int = 4864, kv: int = 128, vocabulary: int = 151936
) -> list[TensorSpec]:
    """The tensors of a Llama-like model; the defaults have 494 million parameters, embeddings tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
    shapes["model.norm.weight"] = (hidden,)
    return [TensorSpec(name, BFLOAT16, shape) for name, shape in shapes.items()]


def write_model(folder: Path, specs: list[TensorSpec], seed: int, base_seed: int = 0, change: float = 0.0) -> None:
    """Write a model: random weights from `base_seed`, plus a random change of a tenth of them from `seed`.

    Values are rounded to bfloat16 after the change, as in a fine-tune that is *stored* in bfloat16.
    """
    if folder.exists():
        return
    with staging(folder, lay_out(specs, "model", 2 * 10**9, {"format": "pt"})) as area:
        for k, spec in enumerate(specs):
            base = np.random.default_rng([base_seed, k])
            delta = np.random.default_rng([seed, k, 1])
            for start in range(0, spec.size, _CHUNK):
                count = min(_CHUNK, spec.size - start)
                values = base.standard_normal(count, np.float32) * np.float32(0.02)
                if change:
                    values = _bfloat16(values).astype(np.uint32) << 16
                    values = values.view(np.float32) + delta.standard_normal(count, np.float32) * np.float32(change)
                area.write(spec.name, start, _bfloat16(values))
        (area.folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16"}))
        area.commit(overwrite=False)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
