"""Random models, small enough to think about and nasty enough to matter."""

from __future__ import annotations

import numpy as np

StateDict = dict[str, np.ndarray]

SHAPES = {
    "embed": (37, 5),
    "layers.10.w": (8, 6),
    "layers.2.b": (6,),
    "layers.2.w": (6, 11),
    "scalar": (),
    "empty": (0, 3),
}


def base_and_tuned(
    seed: int, models: int, dtype: str = "float64", tied: bool = False
) -> tuple[StateDict, list[StateDict]]:
    """A base and fine-tunes of it.

    With `tied`, changes are small multiples of 1/64, so that magnitudes tie, entries stay unchanged and changes
    cancel exactly, as in fine-tunes stored in sixteen bits.
    """
    rng = np.random.default_rng(seed)
    base = {name: (np.round(rng.standard_normal(shape) * 64) / 256).astype(dtype) for name, shape in SHAPES.items()}
    return base, [{name: _changed(rng, t, tied) for name, t in base.items()} for _ in range(models)]


def _changed(rng: np.random.Generator, tensor: np.ndarray, tied: bool) -> np.ndarray:
    change = rng.integers(-3, 4, tensor.shape) / 64 if tied else rng.standard_normal(tensor.shape) * 0.1
    return (tensor + change).astype(tensor.dtype)


def fisher_of(seed: int, like: StateDict) -> StateDict:
    """Something that could be a diagonal Fisher: skewed, some of it exactly zero."""
    rng = np.random.default_rng([seed, 7])
    return {name: (rng.standard_normal(t.shape) ** 4 * (rng.random(t.shape) > 0.2) * 1e-3) for name, t in like.items()}


def gram_of(seed: int, like: StateDict) -> StateDict:
    """Something that could be the Gram matrices of a model's layer inputs, more tokens than inputs; not for vectors."""
    rng = np.random.default_rng([seed, 11])
    return {name: _gram(rng, t.shape[1]) for name, t in like.items() if t.ndim == 2 and t.size}


def _gram(rng: np.random.Generator, inputs: int) -> np.ndarray:
    tokens = rng.standard_normal((4 * inputs, inputs)) * np.exp(rng.standard_normal(inputs))
    return tokens.T @ tokens / len(tokens)


def as_bfloat16(state: StateDict) -> StateDict:
    import ml_dtypes

    return {name: t.astype(ml_dtypes.bfloat16) for name, t in state.items()}


def as_bytes(state: StateDict) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(t).tobytes() for name, t in state.items()}
