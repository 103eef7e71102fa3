"""The sparsifiers of mergekit 0.1.5 and the methods made of them; every tensor on its own."""

import numpy as np

from tests.references.breadcrumbs import only_largest
from tests.references.common import Array, Mask, State, change
from tests.references.della import keep_probabilities
from tests.references.fusing import fuse


def norm_of(tau: Array, norm: str) -> float:
    """The L1, L2 or largest-entry norm of a tensor."""
    return float({"l1": np.sum, "l2": lambda a: np.sqrt(np.sum(a**2)), "linf": np.max}[norm](np.abs(tau)))


def rescaled(kept: Array, whole: Array, norm: str | None) -> Array:
    """Give what is kept the norm of the whole, unless one of the norms is below 1e-7."""
    if norm is None:
        return kept
    before, after = norm_of(whole, norm), norm_of(kept, norm)
    return kept if min(before, after) < 1e-7 else kept * (before / after)


def magnitude(tau: Array, density: float, norm: str | None = None) -> Array:
    """Keep the int(density * n) largest magnitudes of the tensor, at least one; none if the density is not positive."""
    count = max(1, int(density * tau.size)) if density > 0 else 0
    kept = only_largest(tau.reshape(-1), min(count, tau.size)).reshape(tau.shape)
    return rescaled(kept, tau, norm)


def outliers_removed(tau: Array, density: float, gamma: float, norm: str | None = None) -> Array:
    """Remove the int(gamma * n) largest magnitudes, then the smallest until int(density * n) stay.

    Where that leaves too few, fewer of the largest are removed. The snapshot that made the golden cases zeroes the
    tensor where int(gamma * n) = 0; this is 0.1.5, which removes only the smallest there.
    """
    size = tau.size
    stay = int(density * size)
    top = min(int(gamma * size), size - stay)
    order = np.argsort(np.abs(tau), axis=None, kind="stable")
    kept = np.zeros(size)
    chosen = order[size - stay - top : size - top]
    kept[chosen] = tau.reshape(-1)[chosen]
    return rescaled(kept.reshape(tau.shape), tau, norm)


def drawn(tau: Array, keep: Mask, norm: str | None = None) -> Array:
    """What a mask keeps: `bernoulli` and `della_magprune` differ only in its probabilities."""
    return rescaled(np.where(keep, tau, 0.0), tau, norm)


def magprune_probabilities(tau: Array, density: float, epsilon: float) -> Array:
    """Keep probabilities of `della_magprune`: as DELLA's, with epsilon given directly."""
    return keep_probabilities(tau, density, epsilon)


def sparse(tau: Array, how: str, density: float, keep: Mask | None, gamma: float, norm: str | None) -> Array:
    """A task vector's tensor after the named sparsifier; density 1 leaves it as it is."""
    if how == "none" or (density == 1 and how != "della_magprune"):
        return tau
    if how == "magnitude":
        return magnitude(tau, density, norm)
    if how == "magnitude_outliers":
        return outliers_removed(tau, density, gamma, norm)
    assert keep is not None
    return drawn(tau, keep, norm)


def generalised_task_arithmetic(
    base: State,
    models: list[State],
    *,
    weight: list[float],
    density: list[float],
    sparsify: str = "none",
    masks: list[State] | None = None,
    gamma: list[float] | None = None,
    rescale: bool = False,
    elect: bool = False,
    normalize: bool = False,
    scale: float = 1.0,
) -> State:
    """Sparsify every tensor's change, weigh, elect, sum, normalise, scale, add to the base.

    `sparsify` is none (task_arithmetic), magnitude (ties), bernoulli (dare_linear, dare_ties), magnitude_outliers
    (breadcrumbs, breadcrumbs_ties) or della_magprune (della, della_linear). `rescale` restores the L1 norm.
    """
    changes: list[State] = []
    for i, model in enumerate(models):
        delta: State = {}
        for name, tau in change(base, model).items():
            keep = masks[i][name] if masks else None
            top = gamma[i] if gamma else 0.0
            delta[name] = sparse(tau, sparsify, density[i], keep, top, "l1" if rescale else None)
        changes.append(delta)
    return fuse(base, changes, weight, scale=scale, elect=elect, normalize=normalize)
