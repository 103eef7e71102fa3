"""Slerp: from one model to another along an arc, so that what lies between them is as long as they are."""

from __future__ import annotations

from collections.abc import Mapping
from math import acos, sin
from typing import ClassVar, Literal, final

from weft.algorithms.gram import Matrix, combination, cosine
from weft.algorithms.method import Fraction, Law, Method, parameter
from weft.algorithms.program import Number, Program


def arc(gram: Matrix, numbers: Mapping[str, Number]) -> tuple[float, float]:
    """The coefficients of two vectors on the way from the first to the second.

    Args:
        gram: their inner products.
        numbers: `t`, how much of the way; `straight`, above which cosine it is a straight line.

    Example:
        >>> arc([[1.0, 0.0], [0.0, 4.0]], {"t": 0.5, "straight": 0.9995})
        (0.7071067811865475, 0.7071067811865475)
    """
    t, straight = numbers["t"], numbers["straight"]
    assert not isinstance(t, tuple)
    assert not isinstance(straight, tuple)
    c = cosine(gram, 0, 1)
    angle = acos(c)
    if abs(c) > straight or sin(angle) < 1e-9 or not gram[0][0] or not gram[1][1]:
        return 1.0 - t, t
    return sin((1.0 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


@final
class Slerp(Method):
    r"""Go from one model to another along the arc between them instead of the straight line.

    .. math::
        \theta = \frac{\sin((1 - t) \Omega)}{\sin \Omega} \theta_1 + \frac{\sin(t \Omega)}{\sin \Omega} \theta_2,
        \qquad \cos \Omega = \frac{\langle \theta_1, \theta_2 \rangle}{\lVert \theta_1 \rVert \lVert \theta_2 \rVert}

    t = 0 is the first model, t = 1 the second. It may differ between tensors: give it in rules. The angle is that of
    each tensor, taken as one vector, or with `scope: model` that of the whole models.

    Two vectors that are nearly on one line, |cos| above `straight`, are joined by the straight line, and so are those
    of which one is zero. Fine-tunes of one base are: their angle is tiny, and slerp of the models is their plain mean
    but for rounding. `of: changes` takes the arc between the task vectors, whose angle is wide, and adds it to the
    base.

    Source: Shoemake 1985, *Animating Rotation with Quaternion Curves* (SIGGRAPH), section 3.3.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 1.0])}
        >>> weft.merge([a, b], method="slerp", t=0.5)["w"].round(4)
        array([0.7071, 0.7071])
    """

    name: ClassVar = "slerp"
    title: ClassVar = "along the arc between two models"
    formula: ClassVar = "θ = (sin((1 - t) Ω) θ₁ + sin(t Ω) θ₂) / sin Ω, Ω the angle between them"
    source: ClassVar = "Shoemake 1985"
    needs_base: ClassVar = False
    models: ClassVar = range(2, 3)
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {}, Law.ZERO_DELTAS: {}, Law.SCALING: {"of": "changes"}}

    t: Fraction = parameter(0.5, "how much of the way from the first model to the second")
    of: Literal["models", "changes"] = parameter("models", "go between the models, or between their task vectors")
    scope: Literal["model", "tensor"] = parameter("tensor", "the angle of each tensor, or of the whole models")
    straight: Fraction = parameter(0.9995, "size of a cosine above which the way is a straight line")

    @property
    def wants_base(self) -> bool:
        """Task vectors are differences to a base."""
        return self.of == "changes"

    def program(self) -> Program:
        """Three inner products, then the map."""
        values = {"t": self.t, "straight": self.straight}
        return combination(arc, values, self.of == "changes", self.scope == "model")
