"""A checkpoint some of whose tensors have other rows than it stores: moved, dropped, or lent by another checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.wrapping import Wrapping
from weft.kernels.dtypes import FLOAT32, FLOAT64, DType, compute_dtype
from weft.kernels.lowrank import widening


@dataclass(frozen=True, eq=False)
class RowMap:
    """Where every row of a tensor is taken from. A row is what one index along the first axis holds.

    Attributes:
        sources: checkpoints, each with the name of its tensor; all have the same shape but for the first axis.
        origin: integers, shape [rows]: which of the sources; -1 for a row of zeros.
        row: integers, shape [rows]: which of that source's rows.
    """

    sources: tuple[tuple[Checkpoint, str], ...]
    origin: Array
    row: Array

    @property
    def used(self) -> tuple[TensorSpec, ...]:
        """The tensors that at least one row comes from."""
        return tuple(self.sources[k][0].tensors[self.sources[k][1]] for k in np.unique(self.origin) if k >= 0)


@dataclass(frozen=True, eq=False)
class _Runs:
    """The map as stretches of rows that lie side by side in one source.

    Attributes:
        begin: shape [runs + 1]: the first row of each, and the number of rows.
        origin: shape [runs]: which source.
        row: shape [runs]: where it begins there.
    """

    begin: Array
    origin: Array
    row: Array

    @staticmethod
    def of(rows: RowMap) -> _Runs:
        follows = (np.diff(rows.origin) == 0) & ((np.diff(rows.row) == 1) | (rows.origin[1:] < 0))
        begin = np.concatenate([[0], np.flatnonzero(~follows) + 1]) if len(rows.origin) else np.zeros(0, np.int64)
        return _Runs(np.append(begin, len(rows.origin)), rows.origin[begin], rows.row[begin])

    def pieces(self, start: int, stop: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
        """For the elements `start` to `stop`: from, to, which source, and at which element the source has them."""
        k = int(np.searchsorted(self.begin, start // columns, "right")) - 1
        while k < len(self.origin) and (first := int(self.begin[k]) * columns) < stop:
            low, high = max(start, first), min(stop, int(self.begin[k + 1]) * columns)
            yield low, high, int(self.origin[k]), int(self.row[k]) * columns + low - first
            k += 1


class Rows(Wrapping):
    """Another checkpoint, with the rows of some tensors gathered by a map; all other tensors are read straight through.

    A gathered tensor keeps its number format if all its rows are stored in that one; otherwise it is a float32 tensor
    (float64 if a source is), so that no row is rounded. `stored_dtype` says what the inner checkpoint stores.

    Args:
        inner: the checkpoint; it is closed with this one.
        maps: for each tensor that is gathered, from where. Checkpoints in it other than `inner` stay their owner's to
            close, and must be open while this one is read.

    Example:
        >>> from weft.checkpoints.memory import InMemory
        >>> base = InMemory({"embed": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}, "base")
        >>> tuned = InMemory({"embed": np.array([[7, 8], [9, 10]], np.float32)}, "tuned")
        >>> sources = ((tuned, "embed"), (base, "embed"))
        >>> rows = Rows(tuned, {"embed": RowMap(sources, np.array([0, 1, 0]), np.array([1, 1, 0]))})
        >>> rows.read("embed", 0, 6, np.empty(24, np.uint8)).tolist()
        [9.0, 10.0, 3.0, 4.0, 7.0, 8.0]
    """

    def __init__(self, inner: Checkpoint, maps: Mapping[str, RowMap]) -> None:
        self.label = inner.label
        self.path = inner.path
        self.stem = inner.stem
        self.metadata = inner.metadata
        self.tied = inner.tied
        super().__init__(inner)
        self._maps = dict(maps)
        self._runs = {name: _Runs.of(rows) for name, rows in maps.items()}
        specs = {name: _gathered(inner.tensors[name], rows) for name, rows in maps.items()}
        self.tensors = MappingProxyType({**inner.tensors, **specs})
        self._columns = {name: prod(spec.shape[1:]) for name, spec in specs.items()}
        self._thread = threading.local()

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; fills the buffer for gathered tensors."""
        rows = self._maps.get(name)
        if rows is None:
            return self._inner.read(name, start, stop, buffer)
        dtype = self.tensors[name].dtype
        values = buffer[: (stop - start) * dtype.itemsize].view(dtype.storage)
        if len(values):
            for low, high, origin, place in self._runs[name].pieces(start, stop, self._columns[name]):
                part = values[low - start : high - start]
                if origin < 0:
                    part[:] = 0
                else:
                    self._fill(part, *rows.sources[origin], place, dtype)
        return values

    def _fill(self, part: Array, source: Checkpoint, name: str, place: int, dtype: DType) -> None:
        """Read from one source, in the gathered tensor's format."""
        stored = source.tensors[name].dtype
        if stored == dtype:
            found = source.read(name, place, place + len(part), part.view(np.uint8))
            if not np.may_share_memory(found, part):
                part[:] = found
            return
        raw = source.read(name, place, place + len(part), self._scratch(len(part) * stored.itemsize))
        widening(stored, FLOAT64 if dtype == FLOAT64 else FLOAT32)(raw, part)

    def _scratch(self, size: int) -> Array:
        """Memory of this thread's own, for what is stored."""
        memory: Array | None = getattr(self._thread, "memory", None)
        if memory is None or memory.nbytes < size:
            memory = self._thread.memory = np.empty(size, np.uint8)
        return memory[:size]

    def file_of(self, name: str) -> str:
        """The inner checkpoint's file, and those that lend rows."""
        lenders = self._maps[name].sources if name in self._maps else ()
        used = set(self._maps[name].origin.tolist()) if name in self._maps else set()
        files = [source.file_of(there) for k, (source, there) in enumerate(lenders) if k in used]
        return " + ".join(dict.fromkeys([self._inner.file_of(name), *files]))

    def stored_dtype(self, name: str) -> DType:
        """As the inner checkpoint."""
        return self._inner.stored_dtype(name)


def _gathered(spec: TensorSpec, rows: RowMap) -> TensorSpec:
    formats = [source.dtype for source in rows.used]
    dtype = formats[0] if len(set(formats)) == 1 else compute_dtype(formats) if formats else spec.dtype
    return replace(spec, dtype=dtype, shape=(len(rows.origin), *spec.shape[1:]))
