"""The safetensors format, as simply as it can be said: which files are sound, and what they hold."""

from __future__ import annotations

import json
from math import prod

SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "C64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def sound(content: bytes) -> dict[str, tuple[str, list[int], int]] | None:
    """For each tensor its format, its shape and where it begins; None if the file is not sound."""
    try:
        return _read(content)
    except (AssertionError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _read(content: bytes) -> dict[str, tuple[str, list[int], int]]:
    assert len(content) >= 8
    length = int.from_bytes(content[:8], "little")
    assert length <= min(len(content) - 8, 100_000_000)
    header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    assert type(header) is dict
    metadata = header.pop("__metadata__", {})
    assert type(metadata) is dict
    for key, value in metadata.items():
        assert type(value) is str
        (key + value).encode()
    owners = [0] * (len(content) - 8 - length)
    return (
        {name: _tensor(name, entry, owners, 8 + length) for name, entry in header.items()}
        if _full(header, owners)
        else _fail()
    )


def _full(header: dict[str, dict[str, list[int]]], owners: list[int]) -> bool:
    """Every byte belongs to exactly one tensor."""
    for name, entry in header.items():
        _, _, begin = _tensor(name, entry, owners, 0)
        for place in range(begin, entry["data_offsets"][1]):
            owners[place] += 1
    return all(count == 1 for count in owners)


def _fail() -> dict[str, tuple[str, list[int], int]]:
    raise AssertionError


def _tensor(name: str, entry: dict[str, object], owners: list[int], first: int) -> tuple[str, list[int], int]:
    assert 0 < len(name) <= 1000
    assert name.isprintable()
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    assert type(dtype) is str
    assert type(shape) is list
    assert type(offsets) is list
    assert len(shape) <= 64
    assert all(type(n) is int and 0 <= n < 2**63 for n in (*shape, *offsets))
    begin, end = offsets
    assert end - begin == prod(shape) * SIZES[dtype]
    assert prod(n or 1 for n in shape) * SIZES[dtype] < 2**63
    assert 0 <= begin <= end <= len(owners)
    return dtype, shape, first + begin
