"""Are the numbers sound? Every tensor is read once, in tiles, on all threads, in constant memory.

Errors: NaN and infinities, but for masks, which hold minus infinity and one finite number; a module's matrix that is
zero throughout; a number beyond all that weights can be; long runs of zeros inside a tensor that has other numbers.
Warnings: other constants, but for those that training often leaves as they began; one number that outweighs the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.engine.progress import Progress
from weft.engine.reading import Buffers
from weft.engine.runner import Runner
from weft.errors import MergeError, listed
from weft.inspection.configuration import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, called
from weft.inspection.findings import Finding, Level, Report
from weft.inspection.scanning import CHUNK, Numbers, scan
from weft.inspection.subject import Subject
from weft.kernels.dtypes import Kind

TILE = 16 * CHUNK
"""Elements that are read at once."""

_ENORMOUS = 1e15
"""No weight is as large; flipping the highest bit of an exponent makes one larger."""
_TINY = 1e-15
"""Squares of smaller numbers lose their digits in float32."""
_LONELY_SHARE, _LONELY_COUNT = 0.99, 256
"""A number is lonely if its square is this share of the squared norm of a matrix of at least so many numbers."""


@dataclass(frozen=True)
class _Tile:
    part: Checkpoint
    spec: TensorSpec
    start: int
    stop: int


def numbers_sound(subject: Subject, threads: int, progress: Progress) -> Report:
    """Read every tensor of every file and judge it.

    Args:
        subject: what to read.
        threads: how many read.
        progress: is told of bytes.
    """
    survey = _Survey(progress)
    survey.run(subject.parts.values(), threads)
    judged = list(_judged(subject, survey.known))
    elements = sum(numbers.count for numbers in survey.known.values())
    return Report((*survey.unreadable.values(), *judged), bytes_read=survey.bytes_read, elements=elements)


class _Survey:
    """The pass over all tensors.

    Args:
        progress: is told of bytes.
    """

    def __init__(self, progress: Progress) -> None:
        self.known: dict[tuple[str, str], Numbers] = {}
        self.unreadable: dict[str, Finding] = {}
        self.bytes_read = 0
        self._progress = progress
        self._lock = Lock()
        self._waiting: dict[tuple[str, str], dict[int, Numbers]] = {}

    def run(self, parts: Iterable[Checkpoint], threads: int) -> None:
        """Read and look."""
        Runner(threads).run(_tiles(parts), Buffers, self._step)

    def _step(self, buffers: Buffers, tile: _Tile) -> None:
        size = (tile.stop - tile.start) * tile.spec.dtype.itemsize
        try:
            stored = tile.part.read(tile.spec.name, tile.start, tile.stop, buffers.of("stored", size))
        except MergeError as error:
            finding = Finding("error", "numbers", str(error), "the disk is failing, or something is writing the file")
            with self._lock:
                self.unreadable.setdefault(tile.spec.name, finding)
            return
        scratch = buffers.typed("scratch", CHUNK, np.dtype(np.float64))
        self._keep(tile, scan(stored, tile.spec.dtype, tile.start, scratch))
        self._progress.advance(size)

    def _keep(self, tile: _Tile, numbers: Numbers) -> None:
        """Tiles are put together in order, so that sums do not depend on the threads."""
        place = tile.part.file_of(tile.spec.name), tile.spec.name
        with self._lock:
            self.bytes_read += numbers.count * tile.spec.dtype.itemsize
            known = self.known.setdefault(place, Numbers())
            waiting = self._waiting.setdefault(place, {})
            waiting[tile.start] = numbers
            while (following := waiting.pop(known.count, None)) is not None:
                known.add(following)


def _tiles(parts: Iterable[Checkpoint]) -> Iterator[_Tile]:
    for part in parts:
        for spec in part.tensors.values():
            for start in range(0, spec.size, TILE):
                yield _Tile(part, spec, start, min(start + TILE, spec.size))


def _judged(subject: Subject, known: Mapping[tuple[str, str], Numbers]) -> Iterator[Finding]:
    tables = {spec.name for spec in called(subject.tensors, (*INPUT_EMBEDDINGS, *OUTPUT_EMBEDDINGS))}
    constant: dict[float, list[str]] = defaultdict(list)
    for part in subject.parts.values():
        for spec in part.tensors.values():
            numbers = known.get((part.file_of(spec.name), spec.name))
            if numbers is not None and numbers.count == spec.size:
                yield from judged(spec, part.file_of(spec.name), numbers, spec.name in tables)
                if is_suspiciously_constant(spec, numbers):
                    constant[numbers.value].append(spec.name)
    for value, names in constant.items():
        yield _constants(subject, value, names)


def _constants(subject: Subject, value: float, names: list[str]) -> Finding:
    """All that hold nothing but one value; a model that was never trained has many of them."""
    what = f"{subject.path}: {len(names)} tensors hold nothing but {value:g}: {listed(names)}"
    if len(names) == 1:
        spec = subject.tensors[names[0]]
        what = f"{subject.file_of(spec.name)}: tensor {spec.name!r} {list(spec.shape)}: all numbers are {value:g}"
    return Finding("warning", "numbers", what, "is that how the models have it? if so, ignore this")


def judged(spec: TensorSpec, file: str, numbers: Numbers, is_table: bool = False) -> Iterator[Finding]:
    """What is wrong with one tensor.

    Args:
        spec: the tensor.
        file: where it is.
        numbers: what is known of it.
        is_table: whether its rows stand for tokens, of which some may be padding.
    """
    where = f"{file}: tensor {spec.name!r} {list(spec.shape)}"
    if spec.dtype.name == "bool" and numbers.nan:
        what = (
            f"{where}: {_of(numbers.nan, numbers.count)} are neither 0 nor 1, the first at {_place(spec, numbers.at)}"
        )
        yield Finding("error", "numbers", what, _DAMAGED)
    elif numbers.nonfinite and not (numbers.is_mask and _may_mask(spec)):
        yield Finding("error", "numbers", f"{where}: {_nonfinite(spec, numbers)}", _NONFINITE)
    elif spec.dtype.kind is not Kind.EXACT and spec.dtype.name != "float8_e8m0fnu" and not numbers.nonfinite:
        yield from _dead(spec, where, numbers)
        yield from _enormous(spec, where, numbers)
        yield from _holes(spec, where, numbers, is_table)


def _may_mask(spec: TensorSpec) -> bool:
    """Whether it can be there to hide something: weights are not, nor biases, unless they are of a matrix's shape."""
    kind = spec.name.rpartition(".")[2]
    return kind != "weight" and (kind != "bias" or sum(size > 1 for size in spec.shape) > 1)


_DAMAGED = "the file is damaged: write or download it again"
_NONFINITE = "look for it in the models that were merged, or for a division by zero in the method; then merge again"


def _nonfinite(spec: TensorSpec, numbers: Numbers) -> str:
    counts = {"NaN": numbers.nan, "+inf": numbers.positive, "-inf": numbers.negative}
    kinds = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return f"{kinds} among {numbers.count:,} numbers, the first at {_place(spec, numbers.at)}"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} numbers"


def _place(spec: TensorSpec, index: int) -> str:
    """An element's indices.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> _place(TensorSpec("w", FLOAT32, (2, 3)), 4)
        '[1, 1]'
    """
    return str([int(i) for i in np.unravel_index(index, spec.shape)])


def _dead(spec: TensorSpec, where: str, numbers: Numbers) -> Iterator[Finding]:
    """A weight that passes nothing on."""
    if _is_dead(spec, numbers):
        what = f"{where}: all {numbers.count:,} numbers are zero: this weight is dead"
        yield Finding("error", "numbers", what, "merge again, or copy the tensor from a model that has it")


def _is_dead(spec: TensorSpec, numbers: Numbers) -> bool:
    """Zero throughout, and a matrix of a module; bare parameters, such as positions, often begin as zeros."""
    is_module = spec.name.rsplit(".", 1)[-1] == "weight" or "." not in spec.name
    return numbers.constant and numbers.value == 0 and is_module and _is_matrix(spec)


def _is_matrix(spec: TensorSpec) -> bool:
    return sum(size > 1 for size in spec.shape) >= 2


def is_suspiciously_constant(spec: TensorSpec, numbers: Numbers) -> bool:
    """Whether all numbers are equal and that is neither an error nor what training often leaves as it began.

    Harmless are single numbers, integers, biases of zero, vectors of ones, and vectors of zeros that are no weights.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> ones = Numbers(count=8, value=1.0)
        >>> is_suspiciously_constant(TensorSpec("h.0.ln_1.weight", FLOAT32, (8,)), ones)
        False
        >>> is_suspiciously_constant(TensorSpec("h.0.mlp.weight", FLOAT32, (4, 2)), ones)
        True
    """
    if not numbers.constant or numbers.nonfinite or numbers.count < 2 or _is_dead(spec, numbers):
        return False
    if spec.dtype.kind is Kind.EXACT or spec.dtype.name == "float8_e8m0fnu":
        return False
    last = spec.name.rsplit(".", 1)[-1].lower()
    if numbers.value == 0 and ("bias" in last or (not _is_matrix(spec) and last not in ("weight", "scale", "gamma"))):
        return False
    return _is_matrix(spec) or numbers.value != 1


def _enormous(spec: TensorSpec, where: str, numbers: Numbers) -> Iterator[Finding]:
    """One number that outweighs all others together: what a flipped bit of an exponent looks like."""
    is_matrix = _is_matrix(spec)
    lonely = numbers.peak > _TINY and numbers.peak * numbers.peak > _LONELY_SHARE * numbers.squares
    if is_matrix and numbers.peak > _ENORMOUS and not _is_largest(spec, numbers.peak):
        what = f"{where}: the largest of {numbers.count:,} numbers is {numbers.peak:.3g}"
        yield Finding("error", "numbers", what, _DAMAGED)
    elif is_matrix and lonely and numbers.count >= _LONELY_COUNT:
        what = f"{where}: one number, {numbers.peak:.3g}, outweighs the {numbers.count - 1:,} others together"
        yield Finding("warning", "numbers", what, "is a bit flipped? compare with `--hash`, or with the models merged")


def _is_largest(spec: TensorSpec, value: float) -> bool:
    """Whether it is the largest number of the format, which masks use for infinity."""
    largest = {"float32": 2.0**128 - 2.0**104, "bfloat16": 2.0**128 - 2.0**120}
    return value == largest.get(spec.dtype.name, float(np.finfo(np.float64).max))


def _holes(spec: TensorSpec, where: str, numbers: Numbers, is_table: bool) -> Iterator[Finding]:
    """Long runs of zeros: parts of a file that were reserved and never written."""
    if numbers.constant or not numbers.holes:
        return
    start, stop = max(numbers.holes, key=lambda hole: hole[1] - hole[0])
    total = sum(stop - start for start, stop in numbers.holes)
    what = f"{where}: {_of(total, numbers.count)} are zero in a row, the longest run from {_place(spec, start)} "
    what += f"to {_place(spec, stop - 1)}"
    level: Level = "warning" if is_table else "error"
    remedy = "are these rows of padding? if so, ignore this" if is_table else "a part was never written: write it again"
    yield Finding(level, "numbers", what, remedy)
