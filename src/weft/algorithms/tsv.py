"""TSV-Merge: the strongest singular directions of every task vector, made orthogonal to each other."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from weft.algorithms.method import Law, parameter
from weft.algorithms.program import Program
from weft.algorithms.spectral import Spectral
from weft.algorithms.whole import computing_with_torch


@final
class Tsv(Spectral):
    r"""Keep the strongest singular directions of every task vector, and make those of all tasks orthogonal.

    Of each matrix of each task vector, times its weight, the first r = floor(min(m, n) / T) singular triplets are kept.

    .. math::
        \theta = \theta_0 + \lambda\, \operatorname{polar}([U_1 \dots U_T])\,
                 \operatorname{diag}(S_1 \dots S_T)\, \operatorname{polar}([V_1 \dots V_T])^\top

    polar(A) is the nearest matrix with orthonormal columns. All other tensors, those whose smaller side is less than
    the number of tasks T, and those that `exclude` names, are moved by lambda times the mean of the task vectors.
    A model of weight 0 is no task.

    Differences to the official code, where its result is an accident: it computes r as int(min(m, n) * (1 / T)), which
    for some T is one less (49 * (1 / 49) is 0.99); a matrix with r = 0 it leaves unchanged without a word; directions
    in which a task vector does not move (of singular value 0) it orthogonalises too, as LAPACK returns them.

    Source: Gargiulo et al. 2025, *Task Singular Vectors: Reducing Task Interference in Model Merging* (arXiv
    2412.00081), and the official code.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([[2.0, 0.0], [0.0, 0.0]])}, {"w": np.array([[0.0, 0.0], [0.0, 3.0]])}
        >>> weft.merge([a, b], base={"w": np.zeros((2, 2))}, method="tsv")["w"].round(6) + 0.0
        array([[2., 0.],
               [0., 3.]])
    """

    name: ClassVar = "tsv"
    title: ClassVar = "orthogonal task singular vectors"
    formula: ClassVar = "θ = θ₀ + λ polar([U₁ … U_T]) diag(S₁ … S_T) polar([V₁ … V_T])ᵀ, r = min(m, n) / T of each"
    source: ClassVar = "Gargiulo et al. 2025, arXiv 2412.00081"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    orthogonalise: Literal["svd", "eigen"] = parameter(
        "svd", "by which decomposition the directions are made orthogonal; eigen is faster and less exact"
    )

    def program(self) -> Program:
        """Matrices whole; the mean of the task vectors for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices.tsv import tsv, tsv_bytes
        return self.by_matrix(tsv, tsv_bytes, {"orthogonalise": self.orthogonalise}, least=self.tasks)
