"""Torch pickles (`.bin`, `.pt`, `.pth`, `.ckpt`), read with torch's weights-only reader and nothing else.

A pickle is a program. It is walked through before anything is done (`pickle_program`); then torch's reader runs the few
instructions that build tensors and refuses the rest; what it refuses is refused here. It maps the file, from which we
learn where each tensor's bytes lie; they are then read with `pread`, as those of a safetensors file are. A mapping
would count as resident memory, and a file that shrinks under it kills the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.header import name_fault
from weft.checkpoints.memory import identity, is_torch_tensor, storage
from weft.checkpoints.pickle_loading import load
from weft.checkpoints.plain_files import open_file
from weft.checkpoints.positioned import read_at
from weft.checkpoints.readahead import ReadAhead
from weft.checkpoints.safetensors import Stretch
from weft.checkpoints.sources import SourceFile
from weft.errors import InputError, listed, shown
from weft.kernels.dtypes import DType

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
PICKLED_INDEX = ".bin.index.json"

_BLOCK = 1 << 16


class PickledCheckpoint(Checkpoint):
    """Tensors in one or several torch pickles.

    Files that torch wrote as zip archives, as it does by default since 1.6, are read in ranges. Older ones cannot be
    mapped and are held in memory whole.

    Args:
        path: the file or folder that the user named.
        files: the pickles, all of them.
        stem: what the files are called, without numbers of shards and suffix.

    Raises:
        InputError: for a file that is missing, damaged or more than tensors, or a tensor that two files hold.
    """

    def __init__(self, path: Path, files: Sequence[Path], stem: str = "model") -> None:
        self.path = path
        self.label = str(path)
        self.stem = stem
        self.metadata = MappingProxyType({})
        self._descriptors: list[int] = []
        self._sources: list[SourceFile] = []
        self._ahead = ReadAhead()
        self._places: dict[str, Stretch | _Held] = {}
        tensors: dict[str, TensorSpec] = {}
        tied: dict[str, str] = {}
        try:
            for file in files:
                self._add(file, tensors, tied)
        except BaseException:  # whatever happened, the files that are open already are not left open
            self.close()
            raise
        self.tensors = MappingProxyType(tensors)
        self.tied = MappingProxyType(tied)

    def _add(self, file: Path, tensors: dict[str, TensorSpec], tied: dict[str, str]) -> None:
        descriptor = self._open(file)
        is_zip = _begins_as_zip(descriptor)
        loaded, records = load(file, is_zip)
        base = _mapped_at(records, loaded)
        first: dict[Any, str] = {}
        for name, value in state_dict(loaded, file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name!r} is also in {self._places[name].file}", "keep one of the two")
            if fault := name_fault(name):
                raise InputError(f"{file}: tensor {shown(name)}: {fault}", "save it under another name")
            dtype, held = _held(name, value, file)
            tensors[name] = TensorSpec(name, dtype, tuple(value.shape))
            offset = None if base is None else held.offset_from(base, os.fstat(descriptor).st_size)
            self._places[name] = held if offset is None else Stretch(descriptor, file, offset, self._ahead)
            if value.numel() and (origin := first.setdefault(identity(value), name)) != name:
                tied[name] = origin

    def _open(self, file: Path) -> int:
        try:
            with open_file(file) as stream:
                self._descriptors.append(os.dup(stream.fileno()))
                self._sources.append(SourceFile.opened(file, stream.fileno()))
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}", "check the path and the permissions") from None
        return self._descriptors[-1]

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; fills the buffer, or is a view of what is held."""
        return self._places[name].read(self.tensors[name], start, stop, buffer)

    def file_of(self, name: str) -> str:
        """The path of the shard."""
        return str(self._places[name].file)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Its files."""
        return tuple(self._sources)

    @property
    def is_resident(self) -> bool:
        """Whether nothing is read from files: so for the old format."""
        return not any(isinstance(place, Stretch) for place in self._places.values())

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())


# --- where tensors lie ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """A tensor in memory, its own or the mapped file's: the elements from its first to its last, and how to step.

    Attributes:
        strides: elements from one index to the next in every dimension; None if it lies in one piece.
    """

    file: Path
    memory: Array
    strides: tuple[int, ...] | None

    def read(self, spec: TensorSpec, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; only a tensor that lies in pieces is copied, and of it only the range."""
        if self.strides is None:
            return self.memory[start:stop]
        wanted = buffer[: (stop - start) * spec.dtype.itemsize].view(spec.dtype.storage)
        for begin in range(start, stop, _BLOCK):
            numbers = np.arange(begin, min(begin + _BLOCK, stop))
            steps = zip(np.unravel_index(numbers, spec.shape), self.strides, strict=True)
            wanted[begin - start :][: len(numbers)] = self.memory[sum(index * stride for index, stride in steps)]
        return wanted

    def offset_from(self, base: int, size: int) -> int | None:
        """The byte of the file at which the tensor begins, if it lies there in one piece.

        Args:
            base: the address at which the file is mapped.
            size: bytes of the file.
        """
        offset = int(self.memory.__array_interface__["data"][0]) - base
        inside = 0 <= offset <= size - self.memory.nbytes
        return offset if inside and self.strides is None else None


def _held(name: str, value: Any, file: Path) -> tuple[DType, _Held]:
    if str(value.layout) != "torch.strided" or value.device.type != "cpu":
        kind = f"on the device {value.device}" if value.device.type != "cpu" else f"stored as {value.layout}"
        raise InputError(f"{file}: tensor {name!r} is {kind}, not an array of numbers", "save it as a dense CPU tensor")
    value = value.detach().resolve_conj().resolve_neg()
    if value.is_contiguous():
        dtype, memory = storage(name, value, str(file))
        return dtype, _Held(file, memory, None)
    last = sum((length - 1) * stride for length, stride in zip(value.shape, value.stride(), strict=True))
    dtype, memory = storage(name, value.as_strided((last + 1,), (1,)), str(file))
    return dtype, _Held(file, memory, tuple(value.stride()))


def _begins_as_zip(descriptor: int) -> bool:
    beginning = bytearray(4)
    return read_at(descriptor, memoryview(beginning), 0) == 4 and bytes(beginning) == b"PK\x03\x04"


def _mapped_at(records: Mapping[int, int], loaded: Any) -> int | None:
    """The address of the file's first byte, if what torch loaded is the mapped file.

    Torch keeps that address to itself. The archive's directory says where each storage's bytes lie in the file; if as
    many storages of the same sizes lie in memory in the same order and at the same distances, that settles it.

    Args:
        records: for each storage in the file, where it begins and how many bytes it has.
        loaded: whatever the file held.
    """
    storages = {s.data_ptr(): s.nbytes() for t in _tensors(loaded) if (s := t.untyped_storage()).nbytes()}
    pairs = list(zip(sorted(storages.items()), sorted(records.items()), strict=False))
    bases = {address - offset for (address, _), (offset, _) in pairs}
    same_sizes = len(storages) == len(records) and all(held == stored for (_, held), (_, stored) in pairs)
    return bases.pop() if same_sizes and len(bases) == 1 else None


def _tensors(loaded: Any) -> Iterator[Any]:
    """All dense tensors in whatever was loaded, however nested; a pickle may contain itself."""
    waiting, seen = [loaded], set()
    while waiting:
        value = waiting.pop()
        if is_torch_tensor(value) and str(value.layout) == "torch.strided" and value.device.type == "cpu":
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, Mapping) else value


# --- finding the tensors ----------------------------------------------------------------------------------------------

_NOT_THE_MODEL = ("optim", "sched", "lr_sched", "scaler", "grad_scaler", "rng", "loops", "callbacks")
"""How trainers call the states of other things than models."""
_DEPTH = 20
"""How deep a state dict is looked for; trainers wrap it twice."""


def state_dict(loaded: Any, file: Path) -> Mapping[str, Any]:
    """The names and tensors in what a training script saved.

    Trainers wrap the state dict: `{"model": {...}, "epoch": 3}`. The outermost dict of tensors is taken, if it is the
    only one so far out. What stands beside it is left aside; all that it holds must be tensors.

    Args:
        loaded: whatever the file held.
        file: named in errors.

    Raises:
        InputError: if there is no dict of tensors, or several, or one that holds other things too.
    """
    level, seen = {"": loaded}, {id(loaded)}
    for _ in range(_DEPTH):
        candidates = {key: found for key, found in level.items() if _has_weights(found)}
        if candidates:
            return _checked(candidates, file)
        level = dict(_inside(level, seen))
    if isinstance(loaded, Mapping) and any(map(is_torch_tensor, loaded.values())):
        return _checked({"": loaded}, file)
    holds = f"a dict with {listed(map(shown, loaded))}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    remedy = "save the state dict, names to tensors, with safetensors.torch.save_file"
    raise InputError(f"{file}: holds no dict of tensors but {holds}", remedy)


def _inside(level: Mapping[str, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The dicts one level further in, by their path; each once, though a pickle may refer to it a million times."""
    for path, outer in level.items():
        for key, inner in outer.items() if isinstance(outer, Mapping) else ():
            is_part = isinstance(inner, Mapping) and id(inner) not in seen
            if is_part and isinstance(key, str) and not key.lower().startswith(_NOT_THE_MODEL):
                seen.add(id(inner))
                yield f"{path}[{shown(key)}]", inner


def _has_weights(value: Any) -> bool:
    """Whether this is a dict with tensors that are more than a figure or a random generator's state."""
    return isinstance(value, Mapping) and any(
        is_torch_tensor(item) and item.dim() > 0 and "rng" not in str(key).lower() for key, item in value.items()
    )


def _checked(candidates: Mapping[str, Mapping[str, Any]], file: Path) -> Mapping[str, Any]:
    path, found = next(iter(candidates.items()))
    load = f"torch.load({file.name!r}, weights_only=True)"
    if len(candidates) > 1:
        what = f"{file}: holds several dicts of tensors: {listed(candidates)}"
        remedy = f"save the one to merge by itself: safetensors.torch.save_file({load}{path}, 'one.safetensors')"
        raise InputError(what, remedy)
    others = [
        f"{shown(k)} ({type(v).__name__})" for k, v in found.items() if not (is_torch_tensor(v) and isinstance(k, str))
    ]
    if others:
        where = f" at {path}" if path else ""
        what = f"{file}: the dict of tensors{where} also holds {len(others)} other entries: {listed(others)}"
        raise InputError(what, "save names and tensors alone, with safetensors.torch.save_file")
    return found
