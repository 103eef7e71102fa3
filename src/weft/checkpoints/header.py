"""The safetensors header: eight bytes of length, a JSON object, then the tensors' bytes without a gap.

Parsing trusts nothing: a header comes from a stranger. Sizes are checked before anything is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from weft.checkpoints.checkpoint import TensorSpec
from weft.errors import InputError
from weft.kernels.dtypes import BY_CODE

LENGTH = 8
LONGEST = 100_000_000
"""The format's own limit on the header, in bytes."""

_REMEDY = "the file is damaged or was cut off: download or save it again"


@dataclass(frozen=True)
class Header:
    """What one file says of itself.

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
    return _checked(_parsed(file.read(length), path), path, LENGTH + length, size)


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header is not valid JSON: {error}", _REMEDY) from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: the header is not a JSON object", _REMEDY)
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = value
    return found


def _checked(parsed: dict[str, Any], path: Path, begin: int, size: int) -> Header:
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{path}: __metadata__ is not a map of text to text", _REMEDY)
    tensors: dict[str, TensorSpec] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in parsed.items():
        tensors[name], span = _entry(name, entry, path)
        spans.append((*span, name))
    _check_spans(sorted(spans), path, size - begin)
    return Header(tensors, {name: begin + start for start, _, name in spans}, metadata)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(name: str, entry: Any, path: Path) -> tuple[TensorSpec, tuple[int, int]]:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise InputError(f"{where}: the header entry lacks dtype, shape or data_offsets", _REMEDY)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in BY_CODE:
        raise InputError(f"{where}: unknown dtype {code!r}", f"known are {', '.join(BY_CODE)}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise InputError(f"{where}: shape {shape!r} is not a list of sizes", _REMEDY)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise InputError(f"{where}: data_offsets {offsets!r} are not two positions", _REMEDY)
    if not name.isprintable() or not name:
        raise InputError(f"{where}: the name is empty or holds characters that cannot be printed", _REMEDY)
    spec = TensorSpec(name, BY_CODE[code], tuple(shape))
    if offsets[1] - offsets[0] != spec.nbytes:
        raise InputError(f"{where}: {spec} needs {spec.nbytes} bytes, data_offsets span {offsets}", _REMEDY)
    return spec, (offsets[0], offsets[1])


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
