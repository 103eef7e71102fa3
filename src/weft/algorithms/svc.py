"""SVC: singular values of a merged change, calibrated by how much of it every task contributed."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, final

from weft.algorithms.correction import Correction
from weft.algorithms.method import Law, Positive, parameter
from weft.algorithms.spectral import in_double
from weft.algorithms.whole import Whole, computing_with_torch, is_matrix


@final
class Svc(Correction):
    r"""Divide every singular value of a merged change by how often the tasks share its direction.

    Of each matrix of the merged change, D = U S V', and of the T task vectors:

    .. math::
        s_r^i = \frac{\langle u_r^\top D,\ u_r^\top \tau_i \rangle}{\lVert u_r^\top \tau_i \rVert^2}, \qquad
        c_r = \frac{T}{\sum_i \max(\alpha, s_r^i)}, \qquad
        \theta = \theta_0 + U \operatorname{diag}(c_r S_r)\, V^\top

    Meant as `after:` of another method. The authors take alpha = 0.1 after averaging, task_arithmetic, ties and iso_c,
    0.2 after iso_cts and 1 after tsv and wudi. A direction that the tasks share less (s below 1) grows, at most
    1 / alpha times. Tensors that are no matrices, and those that `exclude` names, stay as they were merged. A task that
    does not move in a direction counts alpha there; the official code, which takes squared lengths below 1e-12 for
    that, does not scale with the task vectors. A model of weight 0, and one that lacks the tensor, is no task. Alone it
    corrects the sum of the task vectors.

    What iso_c and iso_cts return has equal singular values, so that its singular vectors are whatever rounding makes of
    them: a correction after these differs from machine to machine.

    Source: *Subspace-consistency Spectral Calibration* (arXiv 2602.05536), and the official code.

    Example:
        >>> import numpy as np, weft
        >>> base, a = {"w": np.zeros((2, 2))}, {"w": np.array([[4.0, 0.0], [0.0, 2.0]])}
        >>> weft.merge([a, a], base=base, method="task_arithmetic", after={"method": "svc"})["w"].round(6) + 0.0
        array([[4., 0.],
               [0., 2.]])
        >>> weft.merge([a, a], base=base, method="svc", scale=0.5)["w"].round(6) + 0.0
        array([[4., 0.],
               [0., 2.]])
    """

    name: ClassVar = "svc"
    title: ClassVar = "calibrated singular values of what was merged"
    formula: ClassVar = "θ = θ₀ + U diag(c S) Vᵀ,  cᵣ = T / Σ max(alpha, sᵣⁱ)"
    source: ClassVar = "arXiv 2602.05536"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {}}

    alpha: Positive = parameter(0.1, "smallest consistency of a task with a direction that counts")
    double: bool = parameter(False, "compute in float64")
    exclude: tuple[str, ...] = parameter(
        ("*embedding*", "*text_projection*"), "patterns of tensors that are not corrected"
    )

    def correction(self) -> Whole:
        """Matrices whole."""
        with computing_with_torch(self.name):
            from weft.matrices.svc import svc, svc_bytes
        working = partial(in_double, working=svc_bytes) if self.double else svc_bytes
        return Whole(svc, is_matrix, working, {"alpha": self.alpha, "double": self.double}, excluded=self.exclude)
