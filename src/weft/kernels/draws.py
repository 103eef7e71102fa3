"""Random numbers that are a function of where they are used: no stream, no state, the same on every tile and thread.

A number is drawn by mixing a key of 64 bits, which stands for the seed, the model and the tensor, with the element's
index: two rounds of a 32-bit finaliser whose constants were found by a search for the least bias (C. Wellons,
hash-prospector, public domain). All of it is 32-bit arithmetic, which vectorises.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from weft.kernels.native import Inline


@Inline
def _mixed(x):
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x21F0AAAD))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0xD35A2D97))
    return np.uint32(x ^ (x >> np.uint32(15)))


@Inline
def uniform(low, high, index):
    """A number of [0, 1), a multiple of 2^-24.

    Args:
        low: uint32, one half of the key.
        high: uint32, the other.
        index: of the element in its tensor.
    """
    first = _mixed(np.uint32(index) ^ low)
    upper = np.uint32(index >> 32)
    second = _mixed(np.uint32(first + high + upper * np.uint32(0x9E3779B9)))
    return np.float32(second >> np.uint32(8)) * np.float32(2.0**-24)


def keys_of(seed: int, name: str, models: int) -> np.ndarray[Any, Any]:
    """The keys of a tensor: uint32, two for each model.

    Args:
        seed: as a person gave it.
        name: of the tensor.
        models: how many there are.

    Example:
        >>> bool((keys_of(0, "w", 2) == keys_of(0, "w", 3)[:4]).all())
        True
    """
    digests = (hashlib.blake2b(f"{seed}\0{model}\0{name}".encode(), digest_size=8).digest() for model in range(models))
    return np.frombuffer(b"".join(digests), "<u4").astype(np.uint32)
