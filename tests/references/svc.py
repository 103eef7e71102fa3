"""SVC: calibrate the singular values of a merged change by how the tasks use its directions (arXiv 2602.05536)."""

import numpy as np

from tests.references.common import Array, State, change, excluded, merged_from
from tests.references.spectral import svd


def factors(left: Array, merged: Array, taus: list[Array], least: float) -> Array:
    """T / sum of max(least, s) for every direction u, s = <u^T merged, u^T tau> / ||u^T tau||^2.

    The denominator is at least 1e-12 (the original code; a task that does not use a direction has s = 0 then).
    """
    response = left.T @ merged
    consistency = [
        np.sum(response * (left.T @ tau), axis=1) / np.maximum(np.sum((left.T @ tau) ** 2, axis=1), 1e-12)
        for tau in taus
    ]
    return len(taus) / np.sum(np.maximum(np.stack(consistency), least), axis=0)


def svc_matrix(merged: Array, taus: list[Array], least: float) -> Array:
    """The merged change with its singular values times their factors."""
    u, s, vt = svd(merged)
    return (u * (s * factors(u, merged, taus, least))) @ vt


def svc(
    base: State, models: list[State], merged: State, *, least: float = 0.1, exclude: list[str] | None = None
) -> State:
    """Calibrate a merged model; tensors that are not matrices, or excluded, stay as they are.

    Args:
        base: the pretrained model.
        models: the fine-tuned models.
        merged: what another method made of them.
        least: the paper's alpha.
        exclude: patterns of names; the original code excludes `*embedding*` and `*text_projection*`, the golden case
            (FusionBench's code) calibrates its `embed.weight`.

    """
    changes = [change(base, model) for model in models]
    calibrated: State = {}
    for name, tau in change(base, merged).items():
        whole = tau.ndim == 2 and not excluded(name, exclude or [])
        calibrated[name] = svc_matrix(tau, [delta[name] for delta in changes], least) if whole else tau
    return merged_from(base, calibrated)
