"""A method with what happens before and after it: how `before: dare`, `method: ties`, `after: svc` are one program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weft.algorithms.correction import Correction
from weft.algorithms.method import Method, Step
from weft.algorithms.program import Program
from weft.algorithms.sparsifier import Sparsifier
from weft.errors import InputError


@dataclass(frozen=True)
class Chain:
    """What merges a tensor.

    Attributes:
        method: makes one model of several.
        before: changes every task vector first.
        after: corrects what was merged.
    """

    method: Method
    before: Sparsifier | None = None
    after: Correction | None = None

    def __post_init__(self) -> None:
        if self.before and isinstance(self.method, Sparsifier):
            raise InputError(
                f"before: {self.before.name} comes before {self.method.name}, which changes task vectors itself",
                "keep one of them, or choose a method that merges, such as ties",
            )
        if self.after and isinstance(self.method, Correction):
            raise InputError(
                f"after: {self.after.name} comes after {self.method.name}, which corrects the merged tensors itself",
                "keep one of them",
            )

    @property
    def steps(self) -> Iterator[Step]:
        """What happens, in order."""
        return (step for step in (self.before, self.method, self.after) if step is not None)

    @property
    def name(self) -> str:
        """What to call it.

        Example:
            >>> from weft.algorithms.linear import Linear
            >>> Chain(Linear(weight=(1.0, 1.0))).name
            'linear'
        """
        return " + ".join(step.name for step in self.steps)

    @property
    def population(self) -> tuple[Any, ...]:
        """Equal for tensors that statistics about the model are about together, whatever their parameters.

        What happens before the method parts them, since it changes what is counted; what comes after does not.
        """
        return (type(self.before), type(self.method))

    @property
    def needs_base(self) -> bool:
        """Whether there must be a base."""
        return any(step.wants_base for step in (self.before, self.method, self.after) if step is not None)

    def program(self) -> Program:
        """What the engine shall run."""
        program = self.method.program()
        program = replace(program, change=self.before.change()) if self.before else program
        return replace(program, after=self.after.correction()) if self.after else program

    def ignoring(self, models: Sequence[int]) -> Chain:
        """The same for a tensor that some models lack; their task vectors are zero already."""
        return replace(self, method=self.method.ignoring(models))
