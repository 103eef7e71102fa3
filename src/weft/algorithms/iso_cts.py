"""Iso-CTS: isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.method import Fraction, Law, parameter
from weft.algorithms.program import Program
from weft.algorithms.spectral import Spectral
from weft.algorithms.whole import computing_with_torch


@final
class IsoCts(Spectral):
    r"""Join the strongest directions of the sum with the strongest of each task outside them, all equally strong.

    U_c are the first c left singular vectors of the sum of the task vectors, V_c the right ones. Outside the space of
    U_c, each task vector gives its first k singular vectors, U_i and V_i.

    .. math::
        \theta = \theta_0 + \lambda\, \overline{S}\, \operatorname{polar}([U_1 \dots U_T\ U_c])\,
                 \operatorname{polar}([V_1 \dots V_T\ V_c])^\top

    Of min(m, n) directions int(f min(m, n)) are meant to be common; the rest is divided among T tasks, k for each, the
    quotient rounded, halves to even, as in the official code; c is what is left then. S are the singular values of all
    that were chosen. With fewer directions than tasks k is at most min(m, n) / T rounded down, where the official sizes
    become negative. Directions in which nothing moves stay as they are. Other tensors, and those that `exclude` names,
    are moved by lambda times the mean of the task vectors.

    Source: Marczak et al. 2025, *No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces*
    (arXiv 2502.04959), section 4.2, and the official code, which looks for lambda on held-out data.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([[4.0, 0.0], [0.0, 1.0]])}, {"w": np.array([[4.0, 0.0], [0.0, 0.0]])}
        >>> weft.merge([a, b], base={"w": np.zeros((2, 2))}, method="iso_cts", fraction=1)["w"].round(6) + 0.0
        array([[4.5, 0. ],
               [0. , 4.5]])
    """

    name: ClassVar = "iso_cts"
    title: ClassVar = "common and tasks' own directions, equally strong"
    formula: ClassVar = "θ = θ₀ + λ mean(S) polar([U₁ … U_T U_c]) polar([V₁ … V_T V_c])ᵀ"
    source: ClassVar = "Marczak et al. 2025, arXiv 2502.04959"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    fraction: Fraction = parameter(0.8, "share of all directions that is common (f)")

    def program(self) -> Program:
        """Matrices whole; the mean of the task vectors for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices.iso_cts import iso_cts, iso_cts_bytes
        return self.by_matrix(iso_cts, iso_cts_bytes, {"fraction": self.fraction})
