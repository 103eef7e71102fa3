"""NearSwap: move the base towards another model, the more of the way the nearer that model is."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Law, Method, NonNegative, parameter
from weft.algorithms.program import Program
from weft.kernels.element import element


@element
def nearswap(base: float, tuned: Reals, t: float) -> float:
    """One parameter: all of the change where it is at most t, else a step of t towards it.

    Example:
        >>> nearswap(1.0, (1.5,), t=0.5), nearswap(1.0, (5.0,), t=0.5)
        (1.5, 1.5)
    """
    change = 0.0
    for theta in tuned:
        change += min(t / max(abs(theta - base), NEAREST), 1.0) * (theta - base)
    return base + change


NEAREST = 1e-6
"""Smallest distance that t is divided by."""


@final
class Nearswap(Method):
    r"""Move the base towards one other model, no parameter by more than t.

    .. math::
        \theta = \theta_0 + \min\Bigl(1, \frac{t}{\max(|\delta|, 10^{-6})}\Bigr) \, \delta

    Where the two are nearer than t this is the other model, elsewhere a step of length t; strong changes are held
    back. With t below 1e-6 changes that are smaller than 1e-6 are scaled by t / 1e-6, as in mergekit.

    Source: alchemonaut's QuartetAnemoi-70B-t0.0001 (2024), as mergekit computes it (`nearswap`).

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"w": np.array([1.0, 1.0])}, {"w": np.array([1.2, -3.0])}
        >>> weft.merge([tuned], base=base, method="nearswap", t=0.5)["w"]
        array([1.2, 0.5])
    """

    name: ClassVar = "nearswap"
    title: ClassVar = "small changes in full, large ones cut"
    formula: ClassVar = "θ = θ₀ + min(1, t / max(|δ|, 1e-6)) δ"
    source: ClassVar = "QuartetAnemoi-70B-t0.0001, 2024; mergekit"
    needs_base: ClassVar = True
    models: ClassVar = range(1, 2)
    laws: ClassVar = {Law.COPIES: {"t": 100.0}, Law.ZERO_DELTAS: {}}

    t: NonNegative = parameter(1e-4, "how far a parameter may move, in its own units")

    def program(self) -> Program:
        """A single map."""
        return Program(nearswap, values={"t": self.t}, relative=True)
