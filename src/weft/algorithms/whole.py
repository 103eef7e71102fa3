"""Steps of a method that see a whole tensor at once, as data: what needs a matrix is no function of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from weft.errors import InputError

Shape = tuple[int, ...]
Tell = Callable[[str], None]
"""Takes a sentence with `{count}`, which becomes the number of tensors that it was said of."""
Measure = Callable[[str, float], None]
"""Takes the name of a figure and its value for this tensor; the largest, with its tensor, and the mean are reported."""


@dataclass(frozen=True)
class Whole:
    """A step that sees a whole tensor at once.

    Attributes:
        function: a pure function that asks for its arguments by name and returns a tensor of the output's shape.
            Tensors are float32, float64 if an input is, and have their shapes: `base`; `tuned`, one for each model
            (None for a model that lacks the tensor; its weight is 0 then); `merged`, what the method made of it, for
            a step after a method; the tensors beside the models, by the program's names, one or one for each model,
            None where there is none; the program's numbers; the step's own `options`; `tell` and `measure`.
        applies: which shapes it is for. Tensors of other shapes are computed by the program's `element`.
        working: from the shape, the number of models and the bytes of a number to the bytes that the function takes at
            most, beside its inputs and what it returns.
        options: what else the function receives, by name.
        renamed: for arguments that go by another name elsewhere, that name.
        excluded: patterns of names that it is not for.
    """

    function: Callable[..., Any]
    applies: Callable[[Shape], bool]
    working: Callable[[Shape, int, int], int]
    options: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    excluded: Sequence[str] = ()

    def is_for(self, names: Sequence[str], shape: Shape) -> bool:
        """Whether it computes a tensor of this shape, which goes by these names.

        Example:
            >>> step = Whole(max, is_matrix, lambda *_: 0, excluded=("*text_projection*",))
            >>> step.is_for(["a.weight"], (2, 3)), step.is_for(["text_projection.weight"], (2, 3))
            (True, False)
        """
        return self.applies(shape) and not any(fnmatchcase(name, p) for name in names for p in self.excluded)


@dataclass(frozen=True)
class Beside:
    """Tensors beside the models that only a whole step looks at, and that have another name or shape than theirs.

    Attributes:
        suffix: what their names add to the models'.
        shape: from a tensor's shape to that of what stands beside it.
        optional: whether a tensor without one is computed by `element`, and not an error.
    """

    suffix: str = ""
    shape: Callable[[Shape], Shape] = tuple
    optional: bool = True


def is_matrix(shape: Shape) -> bool:
    """Whether a tensor has two dimensions and numbers in it.

    Example:
        >>> is_matrix((3, 4)), is_matrix((3,)), is_matrix((3, 4, 1, 1)), is_matrix((3, 0))
        (True, False, False, False)
    """
    return len(shape) == 2 and 0 not in shape


@contextmanager
def computing_with_torch(method: str) -> Iterator[None]:
    """Around the import of what computes with torch.

    Raises:
        InputError: if torch is not installed.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        what = f"method {method} computes with torch, which is not installed"
        raise InputError(what, 'pip install "weft[torch]"') from None
