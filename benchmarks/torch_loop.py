"""The merge that anyone would write: load with safetensors, loop over tensors in torch, save. Trims tensor by tensor.

Use: python benchmarks/torch_loop.py linear|ties OUT.safetensors BASE MODEL...
"""

from __future__ import annotations

import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def linear(base: torch.Tensor, tuned: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([t.float() for t in tuned]).mean(0)


def ties(base: torch.Tensor, tuned: list[torch.Tensor], density: float = 0.2) -> torch.Tensor:
    deltas = torch.stack([t.float() - base.float() for t in tuned])
    flat = deltas.abs().flatten(1)
    rank = flat.shape[1] - int(flat.shape[1] * density)
    bars = flat.kthvalue(rank, dim=1).values
    kept = torch.where(deltas.abs() >= bars.view(-1, *[1] * base.ndim), deltas, 0.0)
    sign = kept.sum(0).sign()
    agreeing = torch.where(kept.sign() == sign, kept, 0.0)
    return base.float() + agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


@torch.inference_mode()
def main(method: str, out: str, paths: list[str]) -> None:
    base, *tuned = (safe_open(f"{path}/model.safetensors", "pt") for path in paths)
    merge = {"linear": linear, "ties": ties}[method]
    merged = {}
    for name in base.keys():  # noqa: SIM118
        reference = base.get_tensor(name)
        merged[name] = merge(reference, [model.get_tensor(name) for model in tuned]).to(reference.dtype)
    save_file(merged, out, {"format": "pt"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
