"""WUDI: fit the merged change to the input subspaces of all tasks by gradient descent (arXiv 2503.08099)."""

import numpy as np

from tests.references.common import Array, State, add_up
from tests.references.spectral import by_matrix


def loss(x: Array, taus: list[Array]) -> float:
    """Sum over the tasks of ||(X - tau) tau^T||^2 / ||tau||^2; a zero tau counts nothing (0/0 officially)."""
    terms = [np.sum(((x - tau) @ tau.T) ** 2) / np.sum(tau**2) for tau in taus if np.any(tau)]
    return float(sum(terms))


def gradient(x: Array, taus: list[Array]) -> Array:
    """Derivative of the loss by X."""
    terms = [2 * (x - tau) @ tau.T @ tau / np.sum(tau**2) for tau in taus if np.any(tau)]
    return add_up(np.stack(terms)) if terms else np.zeros(x.shape)


def adam(x: Array, taus: list[Array], steps: int, rate: float) -> Array:
    """Adam from X, betas 0.9 and 0.999, epsilon 1e-8 beside the square root."""
    first, second = np.zeros(x.shape), np.zeros(x.shape)
    for step in range(1, steps + 1):
        slope = gradient(x, taus)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return x


def wudi(
    base: State,
    models: list[State],
    *,
    steps: int = 300,
    rate: float = 1e-5,
    scale: float = 1.0,
    exclude: list[str] | None = None,
) -> State:
    """Base plus, for matrices, what Adam makes of the sum of the task vectors, and the mean for all other tensors."""
    return by_matrix(base, models, exclude or [], scale, lambda taus: adam(add_up(np.stack(taus)), taus, steps, rate))
