"""DPPA: prune task vectors by where their outliers are, then amplify what is left (arXiv 2403.02799)."""

import numpy as np

from tests.references.common import Array, State


def outlier_percent(values: Array, factor: float) -> float:
    """Percent of the entries whose magnitude exceeds `factor` times the mean magnitude."""
    size = np.abs(values)
    return float(100 * np.mean(size > factor * np.mean(size)))


def spread(shares: Array, limit: float) -> Array:
    """Deviations scaled so that the largest magnitude is `limit`; none if all are equal (0/0 in the official code)."""
    largest = np.max(np.abs(shares))
    return shares * (limit / largest) if largest > 0 else np.zeros(len(shares))


def layer_densities(delta: State, layers: list[list[str]], sparsity: float, limit: float) -> Array:
    """Density of each layer, before clamping: more outliers (beyond three means), more density."""
    joined = [np.concatenate([np.asarray(delta[name], np.float64).reshape(-1) for name in names]) for names in layers]
    percent = np.array([outlier_percent(values, 3.0) for values in joined])
    return (1 - sparsity) + spread(percent - np.mean(percent), limit)


def linear_densities(
    delta: State, layers: list[list[str]], sparsity: float, limit: float = 0.08, factor: float = 5.0
) -> dict[str, float]:
    """Density of each linear layer, before clamping, in the order given.

    The percent of outliers is divided by its mean over all linear layers of the model, and its mean weighted by the
    numbers of parameters is taken away.
    """
    names = [name for layer in layers for name in layer]
    percent = np.array([outlier_percent(np.asarray(delta[name], np.float64), factor) for name in names])
    sizes = np.array([delta[name].size for name in names], np.float64)
    share = divided_by_mean(percent)
    own = spread(share - np.sum(share * sizes) / np.sum(sizes), limit)
    of_layer = np.repeat(layer_densities(delta, layers, sparsity, limit), [len(layer) for layer in layers])
    return dict(zip(names, (of_layer + own).tolist()))


def divided_by_mean(values: Array) -> Array:
    """Values over their mean; unchanged where nothing is an outlier (0/0 in the official code)."""
    mean = np.mean(values)
    return values / mean if mean > 0 else values


def clamped(density: float, size: int) -> float:
    """A density the official code can use: between one entry and all (outside, it fails with an index error)."""
    return float(min(max(density, 1 / size), 1.0))


def pruned_tensor(tau: Array, density: float) -> Array:
    """Zero all that is not larger than the magnitude at index int(n * (1 - density)) in ascending order.

    One entry at least is dropped, so that a density of one entry keeps none, and density 1 all but the smallest.
    """
    index = min(int(tau.size * (1 - clamped(density, tau.size))), tau.size - 1)
    threshold = np.sort(np.abs(tau), axis=None)[index]
    return np.where(np.abs(tau) > threshold, tau, 0.0)


def pruned(delta: State, layers: list[list[str]], sparsity: float, limit: float = 0.08, factor: float = 5.0) -> State:
    """Prune the linear layers of one task vector; all other tensors keep their whole change."""
    density = linear_densities(delta, layers, sparsity, limit, factor)
    whole = {name: np.asarray(tau, np.float64) for name, tau in delta.items()}
    return {name: pruned_tensor(tau, density[name]) if name in density else tau for name, tau in whole.items()}


def amplified(sparser: State, denser: State, factor_sparser: float, factor_denser: float) -> State:
    """Entry by entry the larger of the two pruned changes, each times its factor; the sparser wins ties."""
    result: State = {}
    for name in sparser:
        a, b = factor_sparser * sparser[name], factor_denser * denser[name]
        result[name] = np.where(np.abs(a) >= np.abs(b), a, b)
    return result


def dppa(
    base: State,
    models: list[State],
    *,
    layers: list[list[str]],
    sparsity: tuple[float, float] = (0.9, 0.8),
    amplification: list[tuple[float, float]],
    weight: list[float],
    limit: float = 0.08,
    factor: float = 5.0,
) -> State:
    """Base plus the weighted sum of the pruned and amplified task vectors.

    How experts are put together is not in the official repository; adding them is our reading.
    """
    result = {name: np.array(value, np.float64) for name, value in base.items()}
    for model, w, (high, low) in zip(models, weight, amplification):
        delta = {name: np.asarray(model[name], np.float64) - np.asarray(base[name], np.float64) for name in base}
        sparser, denser = (pruned(delta, layers, s, limit, factor) for s in sparsity)
        change = amplified(sparser, denser, high, low)
        result = {name: value + w * change[name] for name, value in result.items()}
    return result
