"""What all sparsifiers share: each changes every task vector by itself, alone or `before:` another method."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from weft.algorithms.method import Method, Number, PerModel, parameter
from weft.algorithms.program import Change, Program
from weft.algorithms.task_arithmetic import task_arithmetic


class Sparsifier(Method):
    """A method that changes every task vector by itself, and adds the changed ones to the base.

    Written as `before:` of another method it only changes the task vectors, and that method merges them: `weight` and
    `scale` then have nothing to say.
    """

    needs_base: ClassVar = True
    alone: ClassVar[frozenset[str]] = frozenset({"weight", "scale"})
    """The parameters that have a say only where it merges the changed task vectors itself."""

    weight: PerModel[Number] = parameter(1.0, "alone: factor of each changed task vector")
    scale: Number = parameter(1.0, "alone: factor of the sum of changed task vectors (lambda)")

    @abstractmethod
    def change(self) -> Change:
        """What happens to each task vector."""

    def program(self) -> Program:
        """The sum of the changed task vectors."""
        values: dict[str, float | tuple[float, ...]] = {"weight": self.weight, "scale": self.scale}
        return Program(task_arithmetic, values=values, relative=True, change=self.change())

    @classmethod
    def chained_fields(cls) -> dict[str, Any]:
        """The parameters that it has as `before:` of another method."""
        return {name: info for name, info in cls.model_fields.items() if name not in cls.alone}
