"""Iso-C: isotropic merging in the common subspace of the tasks."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.method import Law
from weft.algorithms.program import Program
from weft.algorithms.spectral import Spectral
from weft.algorithms.whole import computing_with_torch


@final
class IsoC(Spectral):
    r"""Add the task vectors, and give all singular values of each matrix of the sum their mean.

    .. math::
        \sum_i w_i \tau_i = U S V^\top, \qquad \theta = \theta_0 + \lambda\, \overline{S}\, U V^\top

    The sum, not the mean, sets the scale. Tensors that are no matrices, and those that `exclude` names, are moved by
    lambda times the mean of the task vectors. Directions in which no task vector moves (of singular value 0) stay as
    they are and do not count in the mean, and it is told how many matrices have such; the official code moves along
    whatever LAPACK returns for them.

    Source: Marczak et al. 2025, *No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces*
    (arXiv 2502.04959), section 4.1, and the official code, which looks for lambda on held-out data.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([[3.0, 0.0], [0.0, 0.0]])}, {"w": np.array([[0.0, 0.0], [0.0, 1.0]])}
        >>> weft.merge([a, b], base={"w": np.zeros((2, 2))}, method="iso_c")["w"].round(6) + 0.0
        array([[2., 0.],
               [0., 2.]])
    """

    name: ClassVar = "iso_c"
    title: ClassVar = "sum of task vectors with a flat spectrum"
    formula: ClassVar = "θ = θ₀ + λ mean(S) U Vᵀ,  U S Vᵀ = Σ wᵢ τᵢ"
    source: ClassVar = "Marczak et al. 2025, arXiv 2502.04959"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    def program(self) -> Program:
        """Matrices whole; the mean of the task vectors for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices.iso_c import iso_c, iso_c_bytes
        return self.by_matrix(iso_c, iso_c_bytes, {})
