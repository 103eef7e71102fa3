"""Where every output tensor will lie, known before the first byte is written, because all sizes are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.header import header_bytes
from weft.checkpoints.pipeline import LISTING, SEPARATOR, part_of
from weft.checkpoints.safetensors import INDEX
from weft.errors import InputError, Problem, listed


@dataclass(frozen=True)
class Shard:
    """One output file: its header, and the byte at which each tensor begins.

    Attributes:
        name: its path in the output folder, with `/` after the folder of a pipeline's part.
        header: everything before the first tensor.
        offsets: for each tensor of the output its first byte.
        size: bytes of the file.
    """

    name: str
    header: bytes
    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True)
class Layout:
    """All output files.

    Attributes:
        shards: the files that hold tensors.
        indices: the index of what has several shards, by its path in the output folder.
        total: bytes of all tensors.
    """

    shards: tuple[Shard, ...]
    indices: Mapping[str, bytes]
    total: int

    @property
    def size(self) -> int:
        """Bytes on disk, headers and indices included."""
        return sum(shard.size for shard in self.shards) + sum(map(len, self.indices.values()))


@dataclass(frozen=True)
class _Part:
    """What goes into one folder: the whole output, or a part of a pipeline.

    Attributes:
        prefix: the folder's name and a slash, which precede names of tensors and files; empty for the whole.
        stem: the first part of the file names.
        specs: its tensors.
        metadata: goes into the header of each of its files.
    """

    prefix: str
    stem: str
    specs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]


def lay_out(
    specs: Sequence[TensorSpec], stem: str | Mapping[str, str], shard_size: int, metadata: Mapping[str, str]
) -> Layout:
    """Distribute tensors over files, in the order given, as `save_pretrained` does.

    Args:
        specs: the output's tensors.
        stem: the first part of the file names, normally `model`; for a pipeline one for each part's folder. A part's
            files hold its tensors under the part's own names, without the folder.
        shard_size: bytes of tensors in one file at most; a larger tensor has a file to itself.
        metadata: goes into the header of every file; of a pipeline, entries that begin with a part's folder into that
            part's files only.

    Raises:
        InputError: for tensors that belong to no part of the pipeline.

    Example:
        >>> from weft.kernels.dtypes import FLOAT32
        >>> specs = [TensorSpec("a", FLOAT32, (4,)), TensorSpec("b", FLOAT32, (4,))]
        >>> [shard.name for shard in lay_out(specs, "model", 16, {}).shards]
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    parts = [_Part("", stem, tuple(specs), metadata)] if isinstance(stem, str) else _parts(specs, stem, metadata)
    shards: list[Shard] = []
    indices: dict[str, bytes] = {}
    for part in parts:
        own = _shards(part, shard_size)
        shards += own
        if len(own) > 1:
            indices[f"{part.prefix}{part.stem}{INDEX}"] = _index(part, own)
    return Layout(tuple(shards), indices, sum(spec.nbytes for spec in specs))


def _parts(specs: Sequence[TensorSpec], stems: Mapping[str, str], metadata: Mapping[str, str]) -> Iterator[_Part]:
    """The parts of a pipeline that have tensors."""
    found: dict[str, list[TensorSpec]] = {part: [] for part in stems}
    for spec in specs:
        found.setdefault(part_of(spec.name), []).append(spec)
    homeless = {part: own for part, own in found.items() if part not in stems}
    if homeless:
        raise InputError(_homeless(part, own, stems) for part, own in homeless.items())
    common = {key: text for key, text in metadata.items() if not part_of(key)}
    for part, own in found.items():
        prefix = f"{part}{SEPARATOR}"
        said = {key.removeprefix(prefix): text for key, text in metadata.items() if part_of(key) == part}
        if own:
            yield _Part(prefix, stems[part], tuple(own), common | said)


def _homeless(part: str, specs: Sequence[TensorSpec], stems: Mapping[str, str]) -> Problem:
    names = listed((repr(spec.name) for spec in specs), 2)
    if not part:
        what = f"{len(specs)} tensors of the output belong to no part of the pipeline: {names}"
        return Problem(what, f"let `rename` put a part before their names: {listed(f'{p}/' for p in stems)}")
    what = f"the pipeline that lends {LISTING} and configs has no part {part!r}, but the output has {names} in it"
    return Problem(what, f'add a rule with match: "{part}/*" and `use: drop`, or name a base that has this part')


def _shards(part: _Part, shard_size: int) -> list[Shard]:
    groups: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in part.specs:
        if groups[-1] and filled + spec.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(spec)
        filled += spec.nbytes
    names = _names(part.stem, len(groups))
    return [_shard(part, name, group) for name, group in zip(names, groups, strict=True)]


def _names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]


def _shard(part: _Part, name: str, specs: list[TensorSpec]) -> Shard:
    ordered = sorted(specs, key=lambda spec: -spec.dtype.itemsize)  # widest first, so that every tensor is aligned
    own = [replace(spec, name=spec.name.removeprefix(part.prefix)) for spec in ordered]
    header = header_bytes(own, part.metadata)
    position = len(header)
    offsets: dict[str, int] = {}
    for spec in ordered:
        offsets[spec.name] = position
        position += spec.nbytes
    return Shard(part.prefix + name, header, offsets, position)


def _index(part: _Part, shards: Sequence[Shard]) -> bytes:
    """Names and files as they are called inside the part's folder."""
    places = {name: shard.name for shard in shards for name in shard.offsets}
    weight_map = {name.removeprefix(part.prefix): file.removeprefix(part.prefix) for name, file in places.items()}
    total = sum(spec.nbytes for spec in part.specs)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
