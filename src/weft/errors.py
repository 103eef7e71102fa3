"""The two ways a merge can end badly, and how problems are worded.

`InputError` is the user's to mend: a typo, a missing file, shapes that differ. It is raised before anything is
written and lists *every* problem found. `MergeError` is the world's doing: a read that failed, a disk that filled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import Repr

_SHOWN = 20
"""How many problems are spelled out: a model of another size differs in every tensor."""
_LONGEST = 4000
"""Characters of one problem: what a stranger's file says is quoted in it."""
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 12, 120, 120


class WeftError(Exception):
    """Base of every error that Weft raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong and what to do about it.

    Attributes:
        what: what was found, naming the tensor, the file and both shapes where there are any.
        remedy: what the reader can do, as an imperative sentence; empty when `what` says it all.
    """

    what: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", printable(self.what))
        object.__setattr__(self, "remedy", printable(self.remedy))

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.remedy}" if self.remedy else self.what


class InputError(WeftError):
    """Something in the recipe, the options or the inputs does not fit. Nothing has been written.

    Example:
        >>> print(InputError("no such file: a.yaml", "check the path"))
        no such file: a.yaml
          -> check the path
    """

    def __init__(self, what: str | Iterable[Problem], remedy: str = "") -> None:
        self.problems = (Problem(what, remedy),) if isinstance(what, str) else tuple(what)
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        shown = [f"{i}. {problem}" for i, problem in enumerate(self.problems[:_SHOWN], 1)]
        if len(self.problems) > _SHOWN:
            shown.append(f"... and {len(self.problems) - _SHOWN} more")
        return "\n".join((f"{len(self.problems)} problems:", *shown))


class MergeError(WeftError):
    """The merge began and could not be finished. The output does not exist."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Text for a terminal: what could move the cursor, colour, reorder or not be written at all is spelled out.

    Names of files and tensors are quoted in messages, and may come from strangers.

    Example:
        >>> print(printable("\x1b[2Jmodel.safetensors"))
        \x1b[2Jmodel.safetensors
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ... ({len(text):,} characters)"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """A value from a file, quoted: cut where it goes on and on, or goes too deep.

    Example:
        >>> shown([2, 3]), len(shown("x" * 10**6))
        ('[2, 3]', 120)
    """
    return _SHORT.repr(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that offers the closest known name, or the empty string.

    Example:
        >>> nearest("densty", ["density", "weight"])
        "did you mean 'density'?"
    """
    matches = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {matches[0]!r}?" if matches else ""


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class Gathering:
    """Collects the problems of several checks, so that all can be told at once.

    Example:
        >>> problems = Gathering()
        >>> for what in ("a tensor is missing", "the disk is full"):
        ...     with problems:
        ...         raise InputError(what)
        >>> len(problems.found)
        2
    """

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.found.extend(problem for problem in error.problems if problem not in self.found)
        return isinstance(error, InputError)

    def tell(self) -> None:
        """Raise what was found, if anything was.

        Raises:
            InputError: with all problems.
        """
        if self.found:
            raise InputError(self.found)


def labelled(label: str, problem: Problem) -> Problem:
    """A problem that begins with whose it is, unless it does already.

    Example:
        >>> labelled("base", Problem("base-model: no such folder")).what
        'base: base-model: no such folder'
    """
    said = problem.what.startswith((f"{label}:", f"{label} "))
    return problem if said else Problem(f"{label}: {problem.what}", problem.remedy)
