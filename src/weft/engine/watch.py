"""Looks out, while tensors stream by, for what no merge should swallow: values that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Any, Literal

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.checkpoints.comparing import same_numbers
from weft.engine.journal import Journal
from weft.engine.work import Key, Operand, Strip, Work
from weft.errors import InputError, Problem
from weft.kernels.decoding import below_zero
from weft.kernels.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from weft.kernels.folds import largest_exponent

OnNonfinite = Literal["error", "warn", "ignore"]

_MASKS: dict[DType, tuple[np.dtype[Any], int]] = {
    BFLOAT16: (np.dtype(np.uint16), 0x7F80),
    FLOAT16: (np.dtype(np.uint16), 0x7C00),
    FLOAT32: (np.dtype(np.uint32), 0x7F800000),
    FLOAT64: (np.dtype(np.uint64), 0x7FF0000000000000),
}
"""For each format the unsigned integers of its width, and the bits of its exponent: all set, it is not finite."""

_REMEDY = "mend that model, copy the tensor from another with a rule (`use: base`), or set on_nonfinite: warn"


_Counts = dict[tuple[Work, Operand], int]


class ConstantMasks(Exception):  # noqa: N818 - a signal between parts of the engine, not an error
    """Tensors of a scope that hold infinities and are the same in every input: masks, which are to be copied.

    Attributes:
        works: these tensors.
    """

    def __init__(self, works: frozenset[Work]) -> None:
        super().__init__(works)
        self.works = works


class Watch:
    """Examines every input of a scope once, in the pass that reads it first.

    Args:
        policy: what to do about values that are not finite.
        journal: is told of them where they are no error.
    """

    def __init__(self, policy: OnNonfinite, journal: Journal) -> None:
        self._policy = policy
        self._journal = journal
        self._lock = Lock()
        self._cleared: set[Operand] = set()
        self._current: set[Operand] = set()
        self._found: _Counts = {}
        self._negative: _Counts = {}

    def look(self, strip: Strip[Work], key: Key, values: Array) -> None:
        """Examine what was read for a strip. Called from several threads."""
        if len(strip.tiles) == 1:
            self._look(strip.item, key, strip.item.operands[key], values)
            return
        operands = {tile.item.operands[key] for tile in strip.tiles}
        examined = operands <= self._cleared
        if not examined and key[0] not in strip.item.program.nonnegative:
            examined = self._policy == "ignore" or not has_nonfinite(values, strip.item.operands[key].spec.dtype)
        if examined:
            self._current |= operands
            return
        for tile, part in strip.parts(values):
            self._look(tile.item, key, tile.item.operands[key], part)

    def _look(self, work: Work, key: Key, operand: Operand, values: Array) -> None:
        if operand in self._cleared or work.method is None:  # what is merely copied may hold anything
            return
        self._current.add(operand)
        if self._policy != "ignore" and has_nonfinite(values, operand.spec.dtype):
            self._count(self._found, work, operand, count_nonfinite(values, operand.spec.dtype))
        if key[0] in work.program.nonnegative:
            self._count(self._negative, work, operand, count_negative(values))

    def clear(self, operands: Iterable[Operand]) -> None:
        """These were examined by an earlier run."""
        self._cleared |= set(operands)

    def vouches(self) -> bool:
        """Whether nothing was found so far that the merge may fail for: only then is work worth keeping."""
        return not self._negative and (self._policy != "error" or not self._found)

    def _count(self, found: _Counts, work: Work, operand: Operand, count: int) -> None:
        if count:
            with self._lock:
                found[work, operand] = found.get((work, operand), 0) + count
                if self._policy == "warn":
                    self._journal.found(dict(_texts({(work, operand): found[work, operand]})))

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
            raise InputError(Problem(text, remedy) for text in _told(self._negative, "below zero"))
        if self._policy != "error" or not self._found:
            return
        works = frozenset(work for work, _ in self._found)
        masks = frozenset(work for work in works if _is_constant(work))
        if works - masks:
            spoilt = {place: count for place, count in self._found.items() if place[0] not in masks}
            raise InputError(Problem(text, _REMEDY) for text in _told(spoilt, "not finite"))
        self._found.clear()
        raise ConstantMasks(masks)


def _told(counts: _Counts, what: str) -> Iterator[str]:
    for (_, operand), count in counts.items():
        values = "1 value that is" if count == 1 else f"{count:,} values that are"
        yield f"tensor {operand.spec.name!r} of {operand.file} holds {values} {what}"


def _texts(counts: _Counts) -> Iterator[tuple[str, int]]:
    """What the journal is told: values that are not finite, as far as they have come by."""
    for (_, operand), count in counts.items():
        yield f"tensor {operand.spec.name!r} of {operand.file} holds values that are not finite: {{count}}", count


def has_nonfinite(values: Array, dtype: DType) -> bool:
    """Whether any of these stored numbers is infinite or not a number."""
    unsigned, mask = _MASKS[dtype]
    return bool(largest_exponent(values.view(unsigned), mask) == mask)


def count_nonfinite(values: Array, dtype: DType) -> int:
    """How many of these stored numbers are infinite or not a number."""
    unsigned, mask = _MASKS[dtype]
    return int(np.count_nonzero((values.view(unsigned) & mask) == mask)) if has_nonfinite(values, dtype) else 0


def count_negative(values: Array) -> int:
    """How many of these stored numbers are below zero, told by their bits; -0 is not."""
    return int(np.count_nonzero(below_zero(values)))


def _is_constant(work: Work) -> bool:
    """Whether the base and all models hold the same bytes."""
    merged = [operand for (name, _), operand in work.operands.items() if name in ("base", "tuned")]
    first = merged[0]
    return all(same_numbers(first.checkpoint, first.spec.name, o.checkpoint, o.spec.name) for o in merged[1:])
