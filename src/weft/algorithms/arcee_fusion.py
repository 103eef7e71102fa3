"""Arcee Fusion: take over from another model only the parameters that matter most."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.elections import Reals
from weft.algorithms.method import Law, Method, NonNegative, parameter
from weft.algorithms.program import Program
from weft.algorithms.whole import Shape, Whole, computing_with_torch
from weft.kernels.element import element


@element
def unchanged(base: float, tuned: Reals) -> float:
    """One parameter of a tensor without parameters."""
    return base


def _has_parameters(shape: Shape) -> bool:
    return 0 not in shape


@final
class ArceeFusion(Method):
    r"""Copy from another model the parameters whose change is large and lies in a row that is changed as a whole.

    The importance of a parameter is the size of its change, times how far its row moved: rows along the last dimension
    are taken for logits, and the two distributions are compared.

    .. math::
        I = |\delta| \; \mathrm{KL}(\operatorname{softmax} \theta_1 \,\Vert\, \operatorname{softmax} \theta_0), \qquad
        \theta = \begin{cases} \theta_1 & I \ge Q_{1/2} + 1.5 \, (Q_{3/4} - Q_{1/4}) \\ \theta_0 & \text{else}
        \end{cases}

    Q_p is the quantile p of the importances of the tensor, the value at place floor(p (n - 1)) of n in order.

    The divergence of two nearly equal distributions is a sum of tiny differences. It is computed in float64, in log
    space, from terms that cannot be negative; in the float32 or bfloat16 of mergekit two fifths of it come out
    negative on fine-tunes of usual size. mergekit draws a million importances of larger tensors to estimate the
    quantiles; here all are counted, so that nothing is random.

    Where a row did not change all its importances are 0; if most rows did not, so is the threshold, and every parameter
    is copied, those that differ and those that do not.

    Source: mergekit (`arcee_fusion`), Arcee AI 2024.

    Example:
        >>> import numpy as np, weft
        >>> base, tuned = {"w": np.zeros((1, 5))}, {"w": np.array([[0.1, -0.2, 0.3, 0.4, 2.0]])}
        >>> weft.merge([tuned], base=base, method="arcee_fusion")["w"]
        array([[0., 0., 0., 0., 2.]])
    """

    name: ClassVar = "arcee_fusion"
    title: ClassVar = "copy the parameters that matter most"
    formula: ClassVar = (
        "θ = θ₁ where I ≥ median I + 1.5 IQR I, else θ₀;  I = |δ| KL(softmax θ₁ ‖ softmax θ₀) of the row"
    )
    source: ClassVar = "mergekit; Arcee AI 2024"
    needs_base: ClassVar = True
    models: ClassVar = range(1, 2)
    laws: ClassVar = {Law.ZERO_DELTAS: {}}

    fences: NonNegative = parameter(1.5, "how many interquartile ranges above the median an importance must lie")

    def program(self) -> Program:
        """Every tensor whole."""
        with computing_with_torch(self.name):
            from weft.matrices.arcee_fusion import arcee_fusion, arcee_fusion_bytes
        whole = Whole(arcee_fusion, _has_parameters, arcee_fusion_bytes, {"fences": self.fences})
        return Program(unchanged, whole=whole)
