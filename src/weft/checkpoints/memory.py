"""Tensors that are in memory already: dicts of torch tensors or numpy arrays, and modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.errors import InputError
from weft.kernels.dtypes import BY_NAME, DType

_NAMES = "name tensors by text, as state dicts do"


class InMemory(Checkpoint):
    """A dict of tensors. Contiguous ones are read where they lie; nothing is copied and nothing is changed.

    Args:
        tensors: names to torch tensors (on any device) or numpy arrays (bfloat16 through `ml_dtypes`).
        label: what to call it in messages.

    Raises:
        InputError: for a name that is not text, a value that is not a tensor, or a number format that Weft does not
            know.
    """

    def __init__(self, tensors: Mapping[str, Any], label: str, metadata: Mapping[str, str] | None = None) -> None:
        self.label = label
        self.path = None
        self.metadata = MappingProxyType(dict(metadata or {}))
        specs: dict[str, TensorSpec] = {}
        self._arrays: dict[str, Array] = {}
        first: dict[Any, str] = {}
        tied: dict[str, str] = {}
        for name, value in tensors.items():
            if not isinstance(name, str):
                raise InputError(f"{label}: the tensor name {name!r} is a {type(name).__name__}", _NAMES)
            dtype, array = storage(name, value, label)
            specs[name] = TensorSpec(name, dtype, tuple(value.shape))
            self._arrays[name] = array
            if array.size and (origin := first.setdefault(identity(value), name)) != name:
                tied[name] = origin
        self.tensors = MappingProxyType(specs)
        self.tied = MappingProxyType(tied)

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; a view of the tensor's own memory."""
        return self._arrays[name][start:stop]

    def file_of(self, name: str) -> str:
        """There is no file: the label."""
        return self.label

    @property
    def is_resident(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Nothing to release."""


def is_torch_tensor(value: object) -> bool:
    """Whether this is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value: object) -> bool:
    """Whether this is a torch module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def storage(name: str, value: Any, label: str) -> tuple[DType, Array]:
    """The number format of a tensor, and its elements, flat and in storage format; a view if they lie in one piece.

    Args:
        name: named in errors.
        value: a torch tensor or a numpy array.
        label: where it comes from, named in errors.

    Raises:
        InputError: for a value that is not a tensor, or has a number format that Weft does not know.
    """
    if is_torch_tensor(value):
        if value.is_meta or value.layout is not sys.modules["torch"].strided or value.is_quantized:
            kind = "has no data (it is on the meta device)" if value.is_meta else "is sparse or quantised"
            raise InputError(f"{label}: {name!r} {kind}", "load the weights, as dense floating-point tensors, first")
        dtype = _known(name, str(value.dtype).removeprefix("torch."), label)
        flat = value.detach().cpu().contiguous().reshape(-1)
        if dtype.name in ("bfloat16", "float16"):
            flat = flat.view(sys.modules["torch"].int16)
        elif dtype.name.startswith("float8"):
            flat = flat.view(sys.modules["torch"].uint8)
        return dtype, np.asarray(flat.numpy()).view(dtype.storage)
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{label}: {name!r} is a masked array", "fill it first: its mask would be lost")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        dtype = _known(name, value.dtype.name, label)
        return dtype, np.ascontiguousarray(value).reshape(-1).view(dtype.storage)
    raise InputError(
        f"{label}: {name!r} is a {type(value).__name__}, not a tensor", "pass a state dict: names to tensors"
    )


def _known(name: str, dtype: str, label: str) -> DType:
    if dtype not in BY_NAME:
        raise InputError(
            f"{label}: {name!r} has dtype {dtype}, which is not supported", f"convert it to one of {', '.join(BY_NAME)}"
        )
    return BY_NAME[dtype]


def identity(value: Any) -> Any:
    """Equal for two tensors that are the same numbers in the same place."""
    if is_torch_tensor(value):
        return (value.device, value.data_ptr(), tuple(value.shape), tuple(value.stride()), value.dtype)
    if isinstance(value, np.generic):
        return id(value)
    return (value.__array_interface__["data"][0], value.shape, value.strides, value.dtype)
