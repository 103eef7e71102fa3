"""What all corrections share: each changes a merged tensor, alone or `after:` another method."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from weft.algorithms.method import Method, Number, PerModel, parameter
from weft.algorithms.program import Program
from weft.algorithms.task_arithmetic import task_arithmetic
from weft.algorithms.whole import Whole


class Correction(Method):
    """A method that corrects the sum of the task vectors.

    Written as `after:` of another method it corrects what that method merged: `weight` and `scale` then have nothing to
    say.
    """

    needs_base: ClassVar = True

    weight: PerModel[Number] = parameter(1.0, "alone: factor of each task vector")
    scale: Number = parameter(1.0, "alone: factor of the sum of task vectors (lambda)")

    @abstractmethod
    def correction(self) -> Whole:
        """What happens to a merged tensor."""

    def program(self) -> Program:
        """The corrected sum of the task vectors."""
        values: dict[str, float | tuple[float, ...]] = {"weight": self.weight, "scale": self.scale}
        return Program(task_arithmetic, values=values, relative=True, after=self.correction())

    @classmethod
    def chained_fields(cls) -> dict[str, Any]:
        """The parameters that it has as `after:` of another method."""
        return {name: info for name, info in cls.model_fields.items() if name not in ("weight", "scale")}
