"""A method with what happens before and after it: how `before: dare`, `method: ties`, `after: svc` are one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from weft.algorithms.correction import Correction
from weft.algorithms.method import Method, Step
from weft.algorithms.plugins import blamed
from weft.algorithms.program import Change, Program
from weft.algorithms.sparsifier import Sparsifier
from weft.algorithms.whole import Whole
from weft.errors import InputError

T = TypeVar("T")


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
        program = _told(self.method, self.method.program, Program)
        if self.before:
            program = replace(program, change=_told(self.before, self.before.change, Change))
        return replace(program, after=_told(self.after, self.after.correction, Whole)) if self.after else program

    def ignoring(self, models: Sequence[int]) -> Chain:
        """The same for a tensor that some models lack; their task vectors are zero already."""
        return replace(self, method=self.method.ignoring(models))


def _told(step: Step, ask: Callable[[], T], kind: type[T]) -> T:
    """What a step says that it does."""
    with blamed(type(step)):
        told = ask()
        if not isinstance(told, kind):
            raise TypeError(f"{ask.__name__}() gives {type(told).__name__}, not a {kind.__name__}")
        return told
