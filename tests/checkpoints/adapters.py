"""Adapter folders as peft writes them, and a slow, obviously right way to add them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from weft.checkpoints.adapter import open_adapted
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.memory import InMemory

Tensors = Mapping[str, np.ndarray]


def written(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6, **config}))
    return folder


def adapted(folder: Path, base: Tensors | Checkpoint, tensors: Tensors, **config: Any) -> Checkpoint:
    checkpoint = base if isinstance(base, Checkpoint) else InMemory(base, "the base")
    return open_adapted(checkpoint, written(folder, tensors, **config), "the model")


def whole(checkpoint: Checkpoint, name: str) -> np.ndarray:
    spec = checkpoint.tensors[name]
    values = checkpoint.read(name, 0, spec.size, np.empty(spec.nbytes, np.uint8))
    return values.reshape(spec.shape).copy()


def factors(
    rng: np.random.Generator, module: str, inputs: tuple[int, ...], outputs: int, rank: int = 3, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Factors A and B of a module, under peft's names."""
    a = rng.standard_normal((rank, *inputs)) * 0.2
    b = rng.standard_normal((outputs, rank, *(1 for _ in inputs[1:]))) * 0.2
    name = f"base_model.model.{module}"
    return {f"{name}.lora_A.weight": a.astype(dtype), f"{name}.lora_B.weight": b.astype(dtype)}


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """B A in float64, one number at a time."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    result = np.zeros((b.shape[0], *a.shape[1:]))
    for out in range(b.shape[0]):
        for k in range(a.shape[0]):
            result[out] += b[out, k].item() * a[k]
    return result
