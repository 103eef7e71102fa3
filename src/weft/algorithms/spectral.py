"""What all methods share that take the matrices of task vectors apart and average everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import model_validator

from weft.algorithms.method import Method, Number, PerModel, parameter
from weft.algorithms.program import Program
from weft.algorithms.task_arithmetic import task_arithmetic
from weft.algorithms.whole import Shape, Whole, is_matrix


class Spectral(Method):
    """A method on whole matrices of task vectors.

    Tensors that are no matrices, and those that `exclude` names, are moved by `scale` times the mean of the task
    vectors. A model of weight 0 is no task.
    """

    needs_base: ClassVar = True

    weight: PerModel[Number] = parameter(1.0, "factor of each task vector")
    scale: Number = parameter(1.0, "factor of the merged task vector (lambda)")
    double: bool = parameter(False, "compute in float64")
    exclude: tuple[str, ...] = parameter(("*text_projection*",), "patterns of tensors that are averaged instead")

    @model_validator(mode="after")
    def _somebody_counts(self) -> Spectral:
        if not any(self.weight):
            raise ValueError("all weights are 0, so there is no task; give one model a weight")
        return self

    @property
    def tasks(self) -> int:
        """How many models have a weight."""
        return sum(w != 0.0 for w in self.weight)

    def by_matrix(
        self,
        function: Callable[..., Any],
        working: Callable[[Shape, int, int], int],
        options: Mapping[str, Any],
        least: int = 1,
    ) -> Program:
        """What the engine shall run.

        Args:
            function: what is done to a matrix.
            working: bytes that it works with.
            options: what it takes beside weight, scale and precision.
            least: dimensions that a matrix must have at least, both ways.
        """
        own = {"scale": self.scale, "double": self.double, **options}
        return Program(
            task_arithmetic,
            values={"weight": self.weight, "scale": self.scale / self.tasks},
            relative=True,
            whole=Whole(function, partial(_is_at_least, least=least), working, own, excluded=self.exclude),
        )


def _is_at_least(shape: Shape, least: int) -> bool:
    return is_matrix(shape) and min(shape) >= least
