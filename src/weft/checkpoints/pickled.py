"""Torch pickles (`.bin`, `.pt`, `.pth`, `.ckpt`), read with torch's weights-only reader and nothing else.

A pickle is a program. Torch's reader runs the few instructions that build tensors and refuses the rest; what it refuses
is refused here. It maps the file, from which we learn where each tensor's bytes lie; they are then read with `pread`,
as those of a safetensors file are. A mapping would count as resident memory, and a file that shrinks under it kills the
process.
"""

from __future__ import annotations

import os
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.memory import identity, is_torch_tensor, storage
from weft.checkpoints.safetensors import Stretch
from weft.errors import InputError, listed
from weft.kernels.dtypes import DType

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
PICKLED_INDEX = ".bin.index.json"

_SAFE = (2, 10)
"""The first torch whose weights-only reader is not known to be fooled by a crafted file: CVE-2025-32434 (until 2.5)
runs code, CVE-2026-24747 (until 2.9) corrupts memory."""

_BLOCK = 1 << 16
_CONVERT = "load it where you trust it (torch.load), and save its tensors with safetensors.torch.save_file"


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
        torch = _torch(file)
        descriptor = self._open(file)
        is_zip = os.pread(descriptor, 4, 0) == b"PK\x03\x04"
        records = _records(file) if is_zip else {}
        loaded = _load(torch, file, is_zip)
        base = _mapped_at(records, loaded)
        first: dict[Any, str] = {}
        for name, value in state_dict(loaded, file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name!r} is also in {self._places[name].file}", "keep one of the two")
            dtype, held = _held(name, value, file)
            tensors[name] = TensorSpec(name, dtype, tuple(value.shape))
            offset = None if base is None else held.offset_from(base, os.fstat(descriptor).st_size)
            self._places[name] = held if offset is None else Stretch(descriptor, file, offset)
            if value.numel() and (origin := first.setdefault(identity(value), name)) != name:
                tied[name] = origin

    def _open(self, file: Path) -> int:
        try:
            with file.open("rb") as stream:
                self._descriptors.append(os.dup(stream.fileno()))
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


def _records(file: Path) -> dict[int, int]:
    """For each storage in an archive, where its bytes begin and how many they are; none if they need conversion.

    Raises:
        InputError: if it is damaged or compressed.
    """
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
            compressed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if compressed:
                what = f"{file}: the archive is compressed ({listed(compressed, 2)}), which torch.save never does"
                raise InputError(what, _CONVERT)
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            order = archive.read(entries["byteorder"]).decode() if "byteorder" in entries else "little"
            found = [info for name, info in entries.items() if re.fullmatch(r"data/\d+", name) and info.file_size]
            return {_begin(stream, info): info.file_size for info in found} if order == sys.byteorder else {}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _damaged(file, f"{error}") from None


def _begin(stream: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its header, its name and an extra field, whose lengths the header holds."""
    stream.seek(info.header_offset + 26)
    lengths = stream.read(4)
    return info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


# --- loading ----------------------------------------------------------------------------------------------------------


def _load(torch: Any, file: Path, is_zip: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, weights_only=True, mmap=is_zip, map_location="cpu")
    except UnpicklingError as error:
        raise _refused(file, error) from None
    except Exception as error:  # a stranger's pickle can raise anything
        raise _damaged(file, f"{type(error).__name__}: {error}") from None


def _torch(file: Path) -> Any:
    try:
        import torch
    except ImportError:
        what, remedy = "reading torch pickles needs torch", 'pip install "weft[torch]", or convert to safetensors'
        raise InputError(f"{file}: {what}", remedy) from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE:
        wanted = ".".join(map(str, _SAFE))
        what = f"{file}: a crafted pickle can break into torch {torch.__version__}, even its weights-only reader"
        raise InputError(what, f'pip install "torch>={wanted}", or convert the file to safetensors')
    return torch


def _damaged(file: Path, said: str) -> InputError:
    what = f"{file}: not a torch checkpoint, or damaged ({said.partition(chr(10))[0][:200]})"
    return InputError(what, "download it again; if it is something else, convert it to safetensors")


def _refused(file: Path, error: UnpicklingError) -> InputError:
    culprit = _named_in(str(error)) or _first_global(file)
    if culprit is None and not _begins_like_a_pickle(file):
        return _damaged(file, "it does not begin as what torch.save writes")
    asks = f"it asks for {culprit}" if culprit else "it asks for more than torch's weights-only reader allows"
    return InputError(f"{file}: loading it may run code, so it was not loaded: besides tensors {asks}", _CONVERT)


def _named_in(message: str) -> str | None:
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)|Unsupported class (\S+)", message)
    return next((group for group in found.groups() if group), None) if found else None


def _begins_like_a_pickle(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4).startswith((b"\x80", b"PK\x03\x04"))


def _first_global(file: Path) -> str | None:
    """The first name outside torch that a pickle imports. It is looked at, not run."""
    text: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_in(file)):
            if opcode.name in ("GLOBAL", "INST"):
                text += str(argument).split(" ", 1)
            elif isinstance(argument, str):
                text.append(argument)
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not text[-2].startswith(("torch", "collections")):
                return f"{text[-2]}.{text[-1]}"
    except Exception:  # it serves a message only
        return None
    return None


def _pickle_in(file: Path) -> bytes:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    with file.open("rb") as stream:
        return stream.read(1 << 24)


# --- finding the tensors ----------------------------------------------------------------------------------------------

_NOT_THE_MODEL = ("optim", "sched", "lr_sched", "scaler", "grad_scaler", "rng", "loops", "callbacks")
"""How trainers call the states of other things than models."""


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
    while level:
        candidates = {key: found for key, found in level.items() if _has_weights(found)}
        if candidates:
            return _checked(candidates, file)
        level = {key: inner for key, inner in _inside(level) if id(inner) not in seen}
        seen.update(map(id, level.values()))
    if isinstance(loaded, Mapping) and any(map(is_torch_tensor, loaded.values())):
        return _checked({"": loaded}, file)
    holds = f"a dict with {listed(map(repr, loaded))}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    remedy = "save the state dict, names to tensors, with safetensors.torch.save_file"
    raise InputError(f"{file}: holds no dict of tensors but {holds}", remedy)


def _inside(level: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The dicts one level further in, by their path."""
    for path, outer in level.items():
        for key, inner in outer.items() if isinstance(outer, Mapping) else ():
            if isinstance(inner, Mapping) and isinstance(key, str) and not key.lower().startswith(_NOT_THE_MODEL):
                yield f"{path}[{key!r}]", inner


def _has_weights(value: Any) -> bool:
    """Whether this is a dict with tensors that are more than a figure or a random generator's state."""
    return isinstance(value, Mapping) and any(
        is_torch_tensor(item) and item.dim() > 0 and "rng" not in str(key).lower() for key, item in value.items()
    )


def _checked(candidates: Mapping[str, Mapping[str, Any]], file: Path) -> Mapping[str, Any]:
    path, found = next(iter(candidates.items()))
    load = f"torch.load({file.name!r}, weights_only=True)"
    if len(candidates) > 1:
        what = f"{file}: holds several dicts of tensors: {', '.join(candidates)}"
        remedy = f"save the one to merge by itself: safetensors.torch.save_file({load}{path}, 'one.safetensors')"
        raise InputError(what, remedy)
    others = [
        f"{k!r} ({type(v).__name__})" for k, v in found.items() if not (is_torch_tensor(v) and isinstance(k, str))
    ]
    if others:
        where = f" at {path}" if path else ""
        what = f"{file}: the dict of tensors{where} also holds {len(others)} other entries: {listed(others)}"
        raise InputError(what, "save names and tensors alone, with safetensors.torch.save_file")
    return found
