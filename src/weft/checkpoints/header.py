"""The safetensors header: eight bytes of length, a JSON object, then the tensors' bytes without a gap.

Parsing trusts nothing: a header comes from a stranger. Sizes are checked before anything is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.header_text import Entry, MetadataError, parsed_header
from weft.errors import InputError, shown
from weft.kernels.dtypes import BY_CODE, DType

LENGTH = 8
LONGEST = 100_000_000
"""The format's own limit on the header, in bytes."""
LONGEST_NAME = 1000
"""Characters of a tensor's name; the longest in use have some 200."""
DIMENSIONS = 64
"""As many as numpy's arrays can have."""

_REMEDY = "the file is damaged or was cut off: download or save it again"


@dataclass(frozen=True)
class Header:
    """What one file says of itself. It is shared by files that say the same, and not to be changed.

    Attributes:
        offsets: for each tensor, where its bytes begin in the file.
    """

    tensors: dict[str, TensorSpec]
    offsets: dict[str, int]
    metadata: dict[str, str]


def read_header(file: BinaryIO, path: Path, size: int) -> Header:
    """Read and check the header of an open file.

    Args:
        file: positioned at its beginning.
        path: named in errors.
        size: bytes of the whole file.

    Raises:
        InputError: naming the file and the tensor, if anything does not hold.
    """
    prefix = file.read(LENGTH)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < LENGTH or length > min(size - LENGTH, LONGEST):
        raise InputError(f"{path}: not a safetensors file, or cut off: {size} bytes, header length {length}", _REMEDY)
    begin = LENGTH + length
    text = file.read(length)
    key = (sha256(text).digest(), size)
    header = _KNOWN.get(key)
    if header is None:
        header = _KNOWN[key] = _checked(*_parsed(text, path), path, begin, size - begin)
    return header


_KNOWN: WeakValueDictionary[tuple[bytes, int], Header] = WeakValueDictionary()
"""The headers that are in use: fine-tunes of one model mostly have the same, which is then checked once."""


def _parsed(text: bytes, path: Path) -> tuple[dict[str, Entry | None], dict[str, str]]:
    try:
        entries, metadata = parsed_header(text.decode("utf-8"))
        for key, value in metadata.items():
            f"{key}{value}".encode()  # half of a surrogate pair could be read but never written
    except (MetadataError, UnicodeEncodeError):
        raise InputError(f"{path}: __metadata__ is not a map of text to text", _REMEDY) from None
    except ValueError as error:
        raise InputError(f"{path}: the header is not valid JSON: {error}", _REMEDY) from None
    return entries, metadata


def _checked(
    entries: dict[str, Entry | None], metadata: dict[str, str], path: Path, begin: int, available: int
) -> Header:
    tensors: dict[str, TensorSpec] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        tensors[name], (start, end) = _spec(name, entry, path)
        spans.append((start, end, name))
    spans.sort()
    _check_spans(spans, path, available)
    return Header(tensors, {name: begin + start for start, _, name in spans}, metadata)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _spec(name: str, entry: Entry | None, path: Path) -> tuple[TensorSpec, Sequence[int]]:
    fault = name_fault(name)
    if fault or entry is None:
        what = fault or "the header entry lacks dtype, shape or data_offsets"
        raise InputError(f"{path}: tensor {shown(name)}: {what}", _REMEDY)
    if not entry.is_usual:
        _check_numbers(name, entry, path)
    dtype = BY_CODE.get(entry.dtype) if isinstance(entry.dtype, str) else None
    if dtype is None:
        raise InputError(
            f"{path}: tensor {name!r}: unknown dtype {shown(entry.dtype)}", f"known are {', '.join(BY_CODE)}"
        )
    shape = tuple(entry.shape)
    fault = shape_fault(shape, dtype)
    if fault:
        raise InputError(f"{path}: tensor {name!r}: shape {shown(list(shape))} {fault}", _REMEDY)
    spec = TensorSpec(name, dtype, shape)
    if entry.offsets[1] - entry.offsets[0] != spec.nbytes:
        what = f"{spec} needs {spec.nbytes} bytes, data_offsets span {list(entry.offsets)}"
        raise InputError(f"{path}: tensor {name!r}: {what}", _REMEDY)
    return spec, entry.offsets


def _check_numbers(name: str, entry: Entry, path: Path) -> None:
    shape, offsets = entry.shape, entry.offsets
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise InputError(f"{path}: tensor {name!r}: shape {shown(shape)} is not a list of sizes", _REMEDY)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise InputError(f"{path}: tensor {name!r}: data_offsets {shown(offsets)} are not two positions", _REMEDY)


def name_fault(name: str) -> str:
    r"""What keeps a tensor's name from being used, empty if nothing does.

    Names are printed, compared, and written into other files.

    Example:
        >>> name_fault("layers.0.weight"), name_fault("a\x1b[2Jb")
        ('', 'the name is empty or holds characters that cannot be printed')
    """
    if len(name) > LONGEST_NAME:
        return f"the name has {len(name):,} characters, more than {LONGEST_NAME:,}"
    return "" if name and name.isprintable() else "the name is empty or holds characters that cannot be printed"


def shape_fault(shape: tuple[int, ...], dtype: DType) -> str:
    """What keeps an array of this shape from being made, empty if nothing does.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> shape_fault((0, 2**40, 2**40), FLOAT32)
        'has sizes whose product overflows'
    """
    if len(shape) > DIMENSIONS:
        return f"has {len(shape)} dimensions, more than {DIMENSIONS}"
    if 0 in shape and prod(size or 1 for size in shape) * dtype.itemsize >= 2**63:
        return "has sizes whose product overflows"
    return ""


def _check_spans(spans: list[tuple[int, int, str]], path: Path, available: int) -> None:
    for (_, end, name), (start, _, following) in pairwise([(0, 0, "the header"), *spans]):
        if start != end:
            word = "overlaps" if start < end else "leaves a gap after"
            raise InputError(
                f"{path}: tensor {following!r} at byte {start} {word} {name!r}, which ends at {end}", _REMEDY
            )
    end = spans[-1][1] if spans else 0
    if end != available:
        raise InputError(f"{path}: the tensors need {end} bytes, the file holds {available}", _REMEDY)


def header_bytes(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file that holds these tensors in this order; padded so that data begin on eight bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for spec in specs:
        offsets = [position, position + spec.nbytes]
        entries[spec.name] = {"dtype": spec.dtype.code, "shape": list(spec.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH)
    return len(text).to_bytes(LENGTH, "little") + text
