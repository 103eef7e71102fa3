"""Where every output tensor will lie, known before the first byte is written, because all sizes are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.header import header_bytes
from weft.checkpoints.safetensors import INDEX


@dataclass(frozen=True)
class Shard:
    """One output file: its header, and the byte at which each tensor begins."""

    name: str
    header: bytes
    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True)
class Layout:
    """All output files.

    Attributes:
        shards: the files that hold tensors.
        index_name, index: the index file, when there are several shards.
        total: bytes of all tensors.
    """

    shards: tuple[Shard, ...]
    index_name: str
    index: bytes | None
    total: int

    @property
    def size(self) -> int:
        """Bytes on disk, headers and index included."""
        return sum(shard.size for shard in self.shards) + len(self.index or b"")


def lay_out(specs: Sequence[TensorSpec], stem: str, shard_size: int, metadata: Mapping[str, str]) -> Layout:
    """Distribute tensors over files, in the order given, as `save_pretrained` does.

    Args:
        specs: the output's tensors.
        stem: the first part of the file names, normally `model`.
        shard_size: bytes of tensors in one file at most; a larger tensor has a file to itself.
        metadata: goes into the header of every file.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> specs = [TensorSpec("a", FLOAT32, (4,)), TensorSpec("b", FLOAT32, (4,))]
        >>> [shard.name for shard in lay_out(specs, "model", 16, {}).shards]
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    groups: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if groups[-1] and filled + spec.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(spec)
        filled += spec.nbytes
    names = _names(stem, len(groups))
    shards = tuple(_shard(name, group, metadata) for name, group in zip(names, groups, strict=True))
    total = sum(spec.nbytes for spec in specs)
    return Layout(shards, f"{stem}{INDEX}", _index(shards, total) if len(shards) > 1 else None, total)


def _names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]


def _shard(name: str, specs: list[TensorSpec], metadata: Mapping[str, str]) -> Shard:
    ordered = sorted(specs, key=lambda spec: -spec.dtype.itemsize)  # widest first, so that every tensor is aligned
    header = header_bytes(ordered, metadata)
    position = len(header)
    offsets: dict[str, int] = {}
    for spec in ordered:
        offsets[spec.name] = position
        position += spec.nbytes
    return Shard(name, header, offsets, position)


def _index(shards: tuple[Shard, ...], total: int) -> bytes:
    weight_map = {name: shard.name for shard in shards for name in shard.offsets}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
