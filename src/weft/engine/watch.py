"""Looks out, while tensors stream by, for what no merge should swallow: values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Literal

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.checkpoints.comparing import same_numbers
from weft.engine.work import Key, Operand, Work
from weft.errors import InputError, Problem
from weft.kernels.decoding import below_zero, bits_of
from weft.kernels.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from weft.kernels.folds import largest_exponent

OnNonfinite = Literal["error", "warn", "ignore"]

_EXPONENT = {BFLOAT16: 0x7F80, FLOAT16: 0x7C00, FLOAT32: 0x7F800000, FLOAT64: 0x7FF0000000000000}
_REMEDY = "mend that model, copy the tensor from another with a rule (`use: base`), or set on_nonfinite: warn"


_Counts = dict[tuple[Work, Operand], int]


class ConstantMasks(Exception):  # noqa: N818 - a signal between parts of the engine, not an error
    """Tensors that hold infinities and are the same in every input: masks, which are to be copied.

    Attributes:
        works: these tensors.
    """

    def __init__(self, works: frozenset[Work]) -> None:
        super().__init__(works)
        self.works = works


class Watch:
    """Examines every input once, in the pass that reads it first.

    Args:
        policy: what to do about values that are not finite.
    """

    def __init__(self, policy: OnNonfinite) -> None:
        self._policy = policy
        self._lock = Lock()
        self._cleared: set[Operand] = set()
        self._current: set[Operand] = set()
        self._found: _Counts = {}
        self._negative: _Counts = {}

    def look(self, work: Work, key: Key, operand: Operand, values: Array) -> None:
        """Examine a tile of an input. Called from several threads."""
        if operand in self._cleared or work.method is None:  # what is merely copied may hold anything
            return
        self._current.add(operand)
        if self._policy != "ignore":
            self._count(self._found, work, operand, count_nonfinite(values, operand.spec.dtype))
        if key[0] in work.program.nonnegative:
            self._count(self._negative, work, operand, count_negative(values))

    def _count(self, found: _Counts, work: Work, operand: Operand, count: int) -> None:
        if count:
            with self._lock:
                found[work, operand] = found.get((work, operand), 0) + count

    def finish_pass(self) -> None:
        """Judge what the pass brought up.

        Raises:
            InputError: if values are not finite and that is an error.
            ConstantMasks: if all such tensors are the same in every input.
        """
        self._cleared |= self._current
        self._current = set()
        if self._negative:
            remedy = "a Fisher is a mean of squares: is this the file of something else?"
            raise InputError(Problem(text, remedy) for text in _texts(self._negative, "below zero"))
        if self._policy != "error" or not self._found:
            return
        works = frozenset(work for work, _ in self._found)
        masks = frozenset(work for work in works if _is_constant(work))
        if works - masks:
            spoilt = {place: count for place, count in self._found.items() if place[0] not in masks}
            raise InputError(Problem(text, _REMEDY) for text in _texts(spoilt, "not finite"))
        raise ConstantMasks(masks)

    def warnings(self) -> tuple[str, ...]:
        """What was found, where it is no error."""
        return tuple(_texts(self._found, "not finite"))


def _texts(counts: _Counts, what: str) -> Iterator[str]:
    for (_, operand), count in counts.items():
        values = "1 value that is" if count == 1 else f"{count:,} values that are"
        yield f"tensor {operand.spec.name!r} of {operand.file} holds {values} {what}"


def count_nonfinite(values: Array, dtype: DType) -> int:
    """How many of these stored numbers are infinite or not a number."""
    bits = bits_of(values)
    mask = bits.dtype.type(_EXPONENT[dtype])
    return int(np.count_nonzero((bits & mask) == mask)) if largest_exponent(bits, mask) == mask else 0


def count_negative(values: Array) -> int:
    """How many of these stored numbers are below zero, told by their bits; -0 is not."""
    return int(np.count_nonzero(below_zero(values)))


def _is_constant(work: Work) -> bool:
    """Whether the base and all models hold the same bytes."""
    merged = [operand for (name, _), operand in work.operands.items() if name in ("base", "tuned")]
    first = merged[0]
    return all(same_numbers(first.checkpoint, first.spec.name, o.checkpoint, o.spec.name) for o in merged[1:])
