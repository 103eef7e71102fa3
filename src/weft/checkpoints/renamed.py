"""A checkpoint under other tensor names: wrappers leave prefixes behind, and conventions differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from types import MappingProxyType

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.header import name_fault
from weft.checkpoints.patterns import Expression, ExpressionError
from weft.checkpoints.wrapping import Wrapping
from weft.errors import InputError, Problem, listed, shown
from weft.kernels.dtypes import DType

PREFIXES = ("module.", "_orig_mod.", "model.", "transformer.", "base_model.")
"""What data-parallel wrappers, compiled modules and task heads put before the names of a model's tensors."""


class Renamed(Wrapping):
    """Another checkpoint's tensors under new names.

    Args:
        inner: the checkpoint.
        names: for each new name the old one.
    """

    def __init__(self, inner: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__(inner)
        self._names = names
        new = {old: name for name, old in names.items()}
        self.label = inner.label
        self.path = inner.path
        self.stem = inner.stem
        self.metadata = inner.metadata
        self.tensors = MappingProxyType({n: replace(inner.tensors[old], name=n) for n, old in names.items()})
        tied = {new[alias]: new[first] for alias, first in inner.tied.items() if alias in new and first in new}
        self.tied = MappingProxyType(tied)

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`."""
        return self._inner.read(self._names[name], start, stop, buffer)

    def read_whole(self, names: Sequence[str], buffer: Array) -> None:
        """See `Checkpoint.read_whole`."""
        self._inner.read_whole([self._names[name] for name in names], buffer)

    def file_of(self, name: str) -> str:
        """The file, and the name that the tensor has there."""
        old = self._names[name]
        where = self._inner.file_of(old)
        return where if old == name else f"{where}, there called {old!r}"

    @property
    def notes(self) -> tuple[str, ...]:
        """As the inner checkpoint."""
        return self._inner.notes

    def stored_dtype(self, name: str) -> DType:
        """As the inner checkpoint."""
        return self._inner.stored_dtype(self._names[name])


def renamed(checkpoint: Checkpoint, changes: Mapping[str, str]) -> Checkpoint:
    """A checkpoint with its names changed.

    Args:
        checkpoint: any.
        changes: what to look for and what to put there. A plain key is replaced where a name begins with it; a key
            that begins with `re:` is a regular expression, replaced wherever it is found, and its replacement may
            refer to groups. Changes are applied one after the other.

    Raises:
        InputError: for a change that finds nothing, a broken expression, or names that become equal.

    Example:
        >>> import numpy as np
        >>> from weft.checkpoints.memory import InMemory
        >>> model = InMemory({"net.0.w": np.zeros(1)}, "a model")
        >>> list(renamed(model, {"net.": "layers."}).tensors)
        ['layers.0.w']
    """
    names = {name: name for name in checkpoint.tensors}
    for pattern, replacement in changes.items():
        change = _change(pattern, replacement)
        changed = [(change(name), old) for name, old in names.items()]
        if all(new == name for (new, _), name in zip(changed, names, strict=True)):
            raise InputError(
                f"{checkpoint.label}: rename: {pattern!r} is in no tensor name", f"names: {listed(names, 3)}"
            )
        names = _distinct(changed, checkpoint.label, pattern)
    return Renamed(checkpoint, names) if changes else checkpoint


def _change(pattern: str, replacement: str) -> Callable[[str], str]:
    if not pattern.startswith("re:"):
        return lambda name: replacement + name[len(pattern) :] if name.startswith(pattern) else name
    try:
        expression = Expression(pattern[3:], f"rename: {pattern!r}")
        expression.check_replacement(replacement)
    except ExpressionError as error:
        raise InputError(f"rename: {pattern!r} -> {replacement!r}: {error}", "mend the expression") from None
    return lambda name: expression.replaced(name, replacement)


def _distinct(changed: list[tuple[str, str]], label: str, pattern: str) -> dict[str, str]:
    names: dict[str, str] = {}
    problems = []
    for new, old in changed:
        if fault := name_fault(new):
            raise InputError(f"{label}: rename: {pattern!r} makes {shown(new)} of {old!r}: {fault}", "mend the change")
        if new in names:
            what = f"{label}: rename: {pattern!r} gives {names[new]!r} and {old!r} the same name {new!r}"
            problems.append(Problem(what, "look for more of the name, so that only the tensors that are meant change"))
        names[new] = old
    if problems:
        raise InputError(problems)
    return names


def without_stray_prefix(checkpoint: Checkpoint, expected: Collection[str]) -> tuple[Checkpoint, str]:
    """A checkpoint whose names differ from the expected ones by a known prefix, under the expected names.

    Nothing is changed unless hardly any name fits as it is and nearly all fit with one prefix removed or added.

    Args:
        checkpoint: any.
        expected: the names of the reference.

    Returns:
        The checkpoint, and what was done in words (empty if nothing was).
    """
    fitting = len(expected & checkpoint.tensors.keys())
    if not expected or fitting * 2 > min(len(expected), len(checkpoint.tensors)):
        return checkpoint, ""
    for said, names in _candidates(checkpoint.tensors):
        if len(names) == len(checkpoint.tensors) and len(expected & names.keys()) * 10 >= 9 * min(
            len(expected), len(names)
        ):
            return Renamed(checkpoint, names), f"{checkpoint.label}: tensor names are read {said}"
    return checkpoint, ""


def _candidates(names: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    prefixes = ["".join(some) for count in (1, 2) for some in permutations(PREFIXES, count)]
    for prefix in prefixes:
        yield f"without {prefix!r} before them", {name.removeprefix(prefix): name for name in names}
        yield f"with {prefix!r} before them", {prefix + name: name for name in names}
