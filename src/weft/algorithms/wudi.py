"""WUDI-Merging: a merged change that interferes least with every task, found without data."""

from __future__ import annotations

from typing import ClassVar, final

from weft.algorithms.method import Count, Law, NonNegative, parameter
from weft.algorithms.program import Program
from weft.algorithms.spectral import Spectral
from weft.algorithms.whole import computing_with_torch


@final
class Wudi(Spectral):
    r"""Move the sum of the task vectors by Adam to where it interferes least with each task.

    A task vector stands for the inputs that its task trains a linear layer on. For each matrix, X starts at the sum of
    the task vectors and Adam minimises

    .. math::
        \sum_i \frac{\lVert (X - \tau_i)\, \tau_i^\top \rVert^2}{\lVert \tau_i \rVert^2}, \qquad
        \theta = \theta_0 + \lambda X

    Steps of Adam are about as long as its rate whatever the length of the task vectors, so what comes out depends on
    `rate` times `iterations` in units of the weights. A task vector that is zero, for which the official code divides
    0 by 0, counts nothing. Other tensors, and those that `exclude` names, are moved by lambda times the mean of the
    task vectors.

    Source: Cheng et al. 2025, *Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task
    Vectors* (arXiv 2503.08099), and FusionBench's code, whose function takes 300 steps and whose configuration 400.

    Example:
        >>> import numpy as np, weft
        >>> a = {"w": np.array([[1.0, 2.0]])}
        >>> weft.merge([a], base={"w": np.zeros((1, 2))}, method="wudi")["w"]
        array([[1., 2.]])
    """

    name: ClassVar = "wudi"
    title: ClassVar = "least interference with every task vector"
    formula: ClassVar = "θ = θ₀ + λ argmin_X Σ ‖(X - τᵢ) τᵢᵀ‖² / ‖τᵢ‖²,  by Adam from X = Σ wᵢ τᵢ"
    source: ClassVar = "Cheng et al. 2025, arXiv 2503.08099"
    laws: ClassVar = {Law.ORDER: {}, Law.ZERO_DELTAS: {}}

    iterations: Count = parameter(300, "steps of Adam")
    rate: NonNegative = parameter(1e-5, "learning rate of Adam")
    exclude: tuple[str, ...] = parameter((), "patterns of tensors that are averaged instead")

    def program(self) -> Program:
        """Matrices whole; the mean of the task vectors for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices.wudi import wudi, wudi_bytes
        return self.by_matrix(wudi, wudi_bytes, {"iterations": self.iterations, "rate": self.rate})
