"""The merge that anyone would write: load with safetensors, loop over tensors in torch, save. Trims tensor by tensor.

Use: python benchmarks/torch_loop.py linear OUT.safetensors MODEL...
     python benchmarks/torch_loop.py ties OUT.safetensors BASE MODEL...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def linear(models: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([t.float() for t in models]).mean(0)


def ties(models: list[torch.Tensor], density: float = 0.2) -> torch.Tensor:
    base, *tuned = (t.float() for t in models)
    deltas = torch.stack([t - base for t in tuned])
    flat = deltas.abs().flatten(1)
    rank = flat.shape[1] - int(flat.shape[1] * density)
    bars = flat.kthvalue(rank, dim=1).values
    kept = torch.where(deltas.abs() >= bars.view(-1, *[1] * base.ndim), deltas, 0.0)
    sign = kept.sum(0).sign()
    agreeing = torch.where(kept.sign() == sign, kept, 0.0)
    return base + agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


@torch.inference_mode()
def main(method: str, out: str, folders: list[str]) -> None:
    merge = {"linear": linear, "ties": ties}[method]
    merged = {}
    for shard in sorted(Path(folders[0]).glob("*.safetensors")):  # all models are sharded alike
        opened = [safe_open(Path(folder) / shard.name, "pt") for folder in folders]
        for name in opened[0].keys():  # noqa: SIM118
            tensors = [file.get_tensor(name) for file in opened]
            merged[name] = merge(tensors).to(tensors[0].dtype)
    save_file(merged, out, {"format": "pt"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
