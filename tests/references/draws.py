"""The random numbers of the sparsifiers, from their description: a hash of seed, model, tensor and index."""

import hashlib

import numpy as np

from tests.references.common import Array

WHOLE = np.uint64(2**32 - 1)


def mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser, on whole numbers of 32 bits that are held in 64."""
    x = (x ^ (x >> np.uint64(16))) * np.uint64(0x21F0AAAD) & WHOLE
    x = (x ^ (x >> np.uint64(15))) * np.uint64(0xD35A2D97) & WHOLE
    return np.asarray(x ^ (x >> np.uint64(15)))


def draws(seed: int, model: int, name: str, shape: tuple[int, ...]) -> Array:
    """For every parameter of a tensor a number in [0, 1), a multiple of 2^-24.

    Args:
        seed: the method's.
        model: its position in the recipe.
        name: of the tensor; of a tied one the first of its names in order.
        shape: of the tensor; it has less than 2^32 parameters.
    """
    digest = hashlib.blake2b(f"{seed}\0{model}\0{name}".encode(), digest_size=8).digest()
    low, high = (np.uint64(int.from_bytes(half, "little")) for half in (digest[:4], digest[4:]))
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    bits = mixed(mixed(index ^ low) + high & WHOLE)
    return ((bits >> np.uint64(8)).astype(np.float64) / 2**24).reshape(shape)
