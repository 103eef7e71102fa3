"""The number formats a checkpoint can hold, and which of them can be merged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod

import numpy as np


class Kind(Enum):
    """What may be done with a number format."""

    FLOAT = "float"
    """Decoded, merged, rounded once, encoded."""
    EXACT = "exact"
    """Integers and booleans: passed through when all models agree."""
    OPAQUE = "opaque"
    """Recognised so that files can be checked, but its codes are not numbers that may be averaged."""


@dataclass(frozen=True, eq=False)
class DType:
    """A number format. There is one object for each.

    Attributes:
        name: the name people type, as in torch: `bfloat16`.
        code: the name in a safetensors header: `BF16`.
        storage: the numpy type that holds its bits; for `bfloat16` that is `uint16`.
        kind: what may be done with it.
    """

    name: str
    code: str
    storage: np.dtype
    kind: Kind

    @cached_property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.storage.itemsize

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape."""
        return prod(shape) * self.itemsize

    def __str__(self) -> str:
        return self.name


def _dtype(name: str, code: str, storage: type[np.generic], kind: Kind) -> DType:
    return DType(name, code, np.dtype(storage), kind)


FLOAT64 = _dtype("float64", "F64", np.float64, Kind.FLOAT)
FLOAT32 = _dtype("float32", "F32", np.float32, Kind.FLOAT)
FLOAT16 = _dtype("float16", "F16", np.uint16, Kind.FLOAT)
BFLOAT16 = _dtype("bfloat16", "BF16", np.uint16, Kind.FLOAT)

_ALL = (
    FLOAT64,
    FLOAT32,
    FLOAT16,
    BFLOAT16,
    _dtype("float8_e4m3fn", "F8_E4M3", np.uint8, Kind.OPAQUE),
    _dtype("float8_e5m2", "F8_E5M2", np.uint8, Kind.OPAQUE),
    _dtype("float8_e4m3fnuz", "F8_E4M3FNUZ", np.uint8, Kind.OPAQUE),
    _dtype("float8_e5m2fnuz", "F8_E5M2FNUZ", np.uint8, Kind.OPAQUE),
    _dtype("float8_e8m0fnu", "F8_E8M0", np.uint8, Kind.OPAQUE),
    _dtype("complex64", "C64", np.complex64, Kind.OPAQUE),
    _dtype("int64", "I64", np.int64, Kind.EXACT),
    _dtype("int32", "I32", np.int32, Kind.EXACT),
    _dtype("int16", "I16", np.int16, Kind.EXACT),
    _dtype("int8", "I8", np.int8, Kind.EXACT),
    _dtype("uint64", "U64", np.uint64, Kind.EXACT),
    _dtype("uint32", "U32", np.uint32, Kind.EXACT),
    _dtype("uint16", "U16", np.uint16, Kind.EXACT),
    _dtype("uint8", "U8", np.uint8, Kind.EXACT),
    _dtype("bool", "BOOL", np.bool_, Kind.EXACT),
)

BY_CODE = {dtype.code: dtype for dtype in _ALL}
BY_NAME = {dtype.name: dtype for dtype in _ALL}
FLOATS = tuple(dtype for dtype in _ALL if dtype.kind is Kind.FLOAT)


def compute_dtype(inputs: list[DType]) -> DType:
    """The precision a merge computes in: float32, or float64 when any input is float64.

    Example:
        >>> compute_dtype([BFLOAT16, FLOAT32]).name
        'float32'
    """
    return FLOAT64 if FLOAT64 in inputs else FLOAT32
