"""A checkpoint on the Hub of which only headers are here: enough to plan a merge, not to run one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.comparing import NumbersAbsentError
from weft.checkpoints.folders import Weights, check_index
from weft.checkpoints.header import LENGTH, LONGEST, Header, read_header
from weft.checkpoints.hub_files import is_index, listed_in
from weft.checkpoints.hub_ranges import Remote
from weft.errors import InputError, listed

_FIRST = 1 << 16
"""Bytes that are asked for at once: nearly every header is shorter."""
_AT_ONCE = 8
"""Shards whose headers are fetched side by side."""

_SMALL = 1 << 16
"""Bytes of a tensor, or of a part of one, that are worth a request."""
_WHOLE, _PARTS = 32, 8
"""How many small tensors, and how many samples of larger ones, are fetched from one repository."""


class HeadersOnly(Checkpoint):
    """Tensors whose names, formats and shapes are known and whose numbers are on the Hub.

    A few small reads go there. What more a plan would compare is noted among the doubts of `remote`.

    Args:
        remote: where they are.
        files: the files of weights, all of them.
        stem: what the files are called, without numbers of shards and suffix.

    Raises:
        InputError: for a file that is damaged or cannot be reached, or a tensor that two files hold.
    """

    def __init__(self, remote: Remote, files: Sequence[str], stem: str = "model") -> None:
        self.path: Path | None = remote.folder
        self.label = remote.request.text
        self.stem = stem
        self.tied = MappingProxyType({})
        self._remote = remote
        self._places: dict[str, tuple[str, int]] = {}
        self._left = {"whole": _WHOLE, "parts": _PARTS}
        self._known: dict[tuple[str, int, int], bytes] = {}
        self._lock = Lock()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            headers = list(pool.map(self._header, files))
        tensors: dict[str, TensorSpec] = {}
        metadata: dict[str, str] = {}
        for file, header in zip(files, headers, strict=True):
            for name in header.tensors.keys() & tensors.keys():
                what = f"{self._called(file)}: tensor {name!r} is also in {self._places[name][0]}"
                raise InputError(what, "name a revision in which each tensor is stored once")
            tensors.update(header.tensors)
            metadata.update(header.metadata)
            self._places.update((name, (file, offset)) for name, offset in header.offsets.items())
        self.tensors = MappingProxyType(tensors)
        self.metadata = MappingProxyType(metadata)

    def _called(self, file: str) -> Path:
        return Path(self.label, file)

    def _header(self, file: str) -> Header:
        """The header of a file, which costs one request, or two if it is long."""
        size = self._remote.sizes[file]
        head = self._remote.read(file, 0, min(size, _FIRST)) if size else b""
        stop = LENGTH + int.from_bytes(head[:LENGTH], "little")
        if len(head) < stop <= min(size, LENGTH + LONGEST):
            head += self._remote.read(file, len(head), stop)
        return read_header(BytesIO(head), self._called(file), size)

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; only what is small, and not often.

        Raises:
            NumbersAbsentError: for more than that.
        """
        spec = self.tensors[name]
        file, offset = self._places[name]
        if start == stop:
            return buffer[:0].view(spec.dtype.storage)
        begin, end = (offset + place * spec.dtype.itemsize for place in (start, stop))
        wanted = buffer[: end - begin]
        wanted[:] = np.frombuffer(self._fetched(spec, file, begin, end), np.uint8)
        return wanted.view(spec.dtype.storage)

    def _fetched(self, spec: TensorSpec, file: str, begin: int, end: int) -> bytes:
        """Some bytes of a tensor; the same ones are asked for once."""
        with self._lock:
            if (file, begin, end) not in self._known:
                if not self._may_fetch(spec, end - begin):
                    raise NumbersAbsentError(self.label, spec, self.file_of(spec.name), self._remote.doubts)
                self._known[file, begin, end] = self._remote.read(file, begin, end)
            return self._known[file, begin, end]

    def _may_fetch(self, spec: TensorSpec, count: int) -> bool:
        """Whether so many bytes of a tensor may be asked for; if so, that is taken into account."""
        kind = "whole" if count == spec.nbytes else "parts"
        allowed = count <= _SMALL and self._left[kind] > 0
        self._left[kind] -= allowed
        return allowed

    def file_of(self, name: str) -> str:
        """The repository and the name of the shard in it."""
        return str(self._called(self._places[name][0]))

    @property
    def is_resident(self) -> bool:
        """False: the numbers are not even on this disk."""
        return False

    def close(self) -> None:
        """Nothing is open."""


def open_headers(remote: Remote, part: str = "") -> Checkpoint:
    """The checkpoint in one folder of a repository, as far as its headers tell.

    Args:
        remote: the repository.
        part: the folder; by default the root.

    Raises:
        InputError: if there is none or more than one, a header is damaged, or the index contradicts the shards.
    """
    weights = _weights(remote, part)
    files = [f"{part}/{file.name}" if part else file.name for file in weights.files]
    checkpoint = HeadersOnly(remote, files, weights.stem)
    checkpoint.path = weights.path
    check_index(weights, checkpoint)
    return checkpoint


def open_adapter_headers(remote: Remote) -> Checkpoint:
    """An adapter's tensors, as far as their headers tell.

    Raises:
        InputError: if the repository holds none as peft saves them, or it is damaged.
    """
    name = "adapter_model.safetensors"
    if name not in remote.sizes:
        what = f"{remote.request.text}: holds no {name}; its weights are: {listed(remote.sizes)}"
        raise InputError(what, "name the repository that peft's save_pretrained wrote")
    return HeadersOnly(remote, [name], "adapter_model")


def _weights(remote: Remote, part: str) -> Weights:
    """Which files of a folder are the model: those that an index lists, or the only one."""
    where = f"{remote.request.text}/{part}" if part else remote.request.text
    inside = {name.rpartition("/")[2] for name in remote.sizes if name.rpartition("/")[0] == part}
    names = sorted(name for name in inside if not name.startswith("adapter_model."))
    for index in (path for path in sorted((remote.folder / part).glob("*.json")) if is_index(path.name)):
        shards = listed_in(index, index.name)
        if shards and (lost := sorted(set(shards) - inside)):
            what = f"{where}: {len(lost)} shards that {index.name} lists are not in the repository: {listed(lost)}"
            raise InputError(what, "name another revision")
        if shards:
            stem = index.name.partition(".")[0]
            return Weights(remote.folder / part, tuple(map(Path, shards)), stem, index, _weight_map(index))
    if len(names) == 1:
        return Weights(remote.folder / part, (Path(names[0]),), names[0].partition(".")[0])
    raise _unclear(where, names, sorted(remote.sizes))


def _unclear(where: str, names: Sequence[str], everywhere: Sequence[str]) -> InputError:
    if names:
        what = f"{where}: holds several checkpoints, or shards without an index: {listed(names)}"
        return InputError(what, "download it (hf download) and name one of these files")
    if any(name.startswith("adapter_model.") for name in everywhere):
        return InputError(
            f"{where}: this is an adapter, not a model", f"name both: `path:` its base, `adapter: {where}`"
        )
    remedy = "download it (hf download) and name the folder in it that holds the model to merge"
    return InputError(f"{where}: no weights in this folder; there are: {listed(everywhere)}", remedy)


def _weight_map(index: Path) -> Mapping[str, str]:
    parsed: Mapping[str, Mapping[str, str]] = json.loads(index.read_text("utf-8"))
    return parsed["weight_map"]
