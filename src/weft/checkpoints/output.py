"""Output that stays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weft.checkpoints.checkpoint import Array, TensorSpec
from weft.errors import InputError


class MemorySink:
    """Collects tiles into whole tensors.

    Args:
        specs: the output's tensors.
        aliases: for each name that is the same tensor as another, that other.
        as_torch: whether to hand out torch tensors or numpy arrays.
    """

    def __init__(self, specs: Sequence[TensorSpec], aliases: Mapping[str, str], as_torch: bool) -> None:
        self._specs = specs
        self._aliases = aliases
        self._as_torch = as_torch
        own = [spec for spec in specs if spec.name not in aliases]
        self._arrays: dict[str, Array] = {spec.name: np.empty(spec.size, spec.dtype.storage) for spec in own}

    def write(self, name: str, start: int, values: Array) -> None:
        """Elements of one tensor; an alias needs no memory of its own."""
        if name in self._arrays:
            self._arrays[name][start : start + len(values)] = values

    def write_whole(self, names: Sequence[str], sizes: Sequence[int], values: Array) -> None:
        """All elements of several tensors, one after the other."""
        at = 0
        for name, size in zip(names, sizes, strict=True):
            self.write(name, 0, values[at : at + size])
            at += size

    def tensors(self) -> dict[str, Any]:
        """The result, in order; aliases are the same object."""
        made = {spec.name: self._made(spec) for spec in self._specs if spec.name in self._arrays}
        return {spec.name: made[self._aliases.get(spec.name, spec.name)] for spec in self._specs}

    def _made(self, spec: TensorSpec) -> Any:
        array = self._arrays[spec.name]
        if self._as_torch:
            return _torch_tensor(array, spec)
        if spec.dtype.name in ("float64", "float32", "float16") or spec.dtype.name == array.dtype.name:
            return array.view(spec.dtype.name).reshape(spec.shape)
        try:
            import ml_dtypes
        except ImportError:
            raise InputError(f"numpy has no {spec.dtype}", "pip install ml_dtypes, or pass torch tensors") from None
        return array.view(np.dtype(getattr(ml_dtypes, spec.dtype.name))).reshape(spec.shape)


def _torch_tensor(array: Array, spec: TensorSpec) -> Any:
    try:
        import torch
    except ImportError:
        raise InputError(
            "the result would be torch tensors, but torch is not installed", "pip install weft[torch]"
        ) from None
    signed = {"uint16": "int16"} if spec.dtype.name in ("bfloat16", "float16") else {}
    storage = signed.get(array.dtype.name, array.dtype.name)
    return torch.from_numpy(array.view(storage)).view(getattr(torch, spec.dtype.name)).reshape(spec.shape)
