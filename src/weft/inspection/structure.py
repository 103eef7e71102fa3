"""Do the files agree with one another? Index against shards, sizes, numbering, stale files, metadata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from weft.checkpoints.folders import is_index
from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.safetensors import SafetensorsCheckpoint
from weft.checkpoints.variants import variant_of
from weft.errors import InputError, listed
from weft.inspection.findings import Finding, from_problems
from weft.inspection.subject import Subject, shard_number

_OTHER_FORMATS = (
    "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data",
    "*.tflite", "*.npz", "*.bin.index.json",
)  # fmt: skip
_FORMATS = ("pt", "tf", "flax", "mlx")
"""What `format` in a file's metadata may be; loaders refuse a file that says something else."""

_REWRITE = "write the model again"


def opening(subject: Subject) -> Iterable[Finding]:
    """What came up while the files were opened: headers, missing shards, unreadable indices."""
    return subject.problems


def index_agrees(subject: Subject) -> Iterator[Finding]:
    """Every name is in the shard that the index gives, and every tensor of the shards is in the index."""
    if subject.index is None:
        return
    index, weight_map = subject.index.path, subject.index.weight_map
    lost: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for name, shard in weight_map.items():
        if shard in subject.parts and name not in subject.parts[shard].tensors:
            holder = subject.holders.get(name)
            lost[shard, Path(holder.file_of(name)).name if holder else None].append(name)
    for (shard, holder_name), names in lost.items():
        verb, them = ("is", "it") if len(names) == 1 else ("are", "them")
        where = f"which does not hold {them}" + (f"; {holder_name} does" if holder_name else "")
        what = f"{index}: says that {listed(map(repr, names), 3)} {verb} in {shard}, {where}"
        remedy = "were the shards swapped or renamed? give them their own names back" if holder_name else _REWRITE
        yield Finding("error", "index", what, remedy)
    unlisted = [name for name in subject.tensors if name not in weight_map]
    if unlisted:
        what = f"{index}: {len(unlisted)} tensors are in the shards but not in the index: {listed(unlisted)}"
        yield Finding("error", "index", what, f"{_REWRITE}, or remove stale shards")


def sizes_agree(subject: Subject) -> Iterator[Finding]:
    """`total_size` of the index is the number of the tensors' bytes; told only where every shard could be opened."""
    if subject.index is None or len(subject.parts) < len(subject.members):
        return
    told, index = subject.index.total_size, subject.index.path
    if told is None:
        yield Finding(subject.untidy, "index", f"{index}: has no metadata.total_size", _REWRITE)
    elif isinstance(told, bool) or told != subject.nbytes:
        what = f"{index}: total_size is {told}, the tensors of the shards have {subject.nbytes} bytes"
        yield Finding(subject.untidy, "index", what, f"{_REWRITE}, or remove stale shards")


def held_once(subject: Subject) -> Iterator[Finding]:
    """No tensor is in two files."""
    holders: dict[str, list[str]] = defaultdict(list)
    for file, part in subject.parts.items():
        for name in part.tensors:
            holders[name].append(file)
    for name, files in holders.items():
        if len(files) > 1:
            what = f"{subject.path}: tensor {name!r} is in {' and in '.join(files)}"
            yield Finding("error", "files", what, "keep one of the two: remove the stale shard")


def numbering_complete(subject: Subject) -> Iterator[Finding]:
    """Shards are numbered from 1 to the count that their names state."""
    groups: dict[tuple[str, int], set[int]] = defaultdict(set)
    for parsed in map(shard_number, subject.members):
        if parsed:
            stem, number, count = parsed
            groups[stem, count].add(number)
    if len(groups) > 1:
        counts = ", ".join(f"{stem}-...-of-{count:05d}" for stem, count in groups)
        yield Finding("error", "files", f"{subject.path}: shards of several sets are mixed: {counts}", _REWRITE)
    for (stem, count), numbers in groups.items():
        absent = [f"{stem}-{k:05d}-of-{count:05d}.safetensors" for k in range(1, min(count, 99999) + 1)]
        absent = [name for k, name in enumerate(absent, 1) if k not in numbers]
        if absent and len(groups) == 1:
            what = f"{subject.path}: {len(absent)} of {count} shards are not part of the checkpoint: {listed(absent)}"
            yield Finding("error", "files", what, "add them to folder and index, or write the model again")


def nothing_stale(subject: Subject) -> Iterator[Finding]:
    """No weights lie about that are not part of the checkpoint."""
    if subject.folder is None or not subject.is_safetensors:
        return
    for path in sorted(subject.folder.iterdir()):
        if not path.is_file() or path.name in subject.members:
            continue
        if variant_of(path.name) and not subject.by_weft:
            continue  # the same weights in another precision, which loaders take when they are told to
        if path.name.endswith(".safetensors") or is_index(path.name):
            yield from _stray(subject, path)
        elif any(fnmatch(path.name, pattern) for pattern in _OTHER_FORMATS):
            what = f"{path}: weights in another format beside the checkpoint; loaders may take them instead"
            yield Finding(subject.untidy, "stale", what, "remove it, unless it holds the same weights")


def _stray(subject: Subject, path: Path) -> Iterator[Finding]:
    if subject.index and path == subject.index.path:
        return
    if subject.index and path.name == f"{subject.index.path.name.partition('.')[0]}.safetensors":
        what = f"{path}: is not part of the checkpoint that {subject.index.path.name} describes, but is loaded first"
        yield Finding("error", "stale", what, "remove it")
    elif is_index(path.name):
        what = f"{path}: an index that belongs to none of the files used: {listed(subject.members)}"
        yield Finding("error", "stale", what, "remove it")
    else:
        same_set = shard_number(path.name) is not None
        what = f"{path}: is not part of the checkpoint"
        yield Finding("error" if same_set else subject.untidy, "stale", what, "remove it, or add it to the index")


def metadata_known(subject: Subject) -> Iterator[Finding]:
    """A model folder's files say in which framework's layout they are."""
    if subject.folder is None or not subject.config:
        return
    for part in subject.parts.values():
        if not isinstance(part, SafetensorsCheckpoint):
            continue
        told = part.metadata.get("format")
        if told is None:
            what = f"{part.label}: its metadata lack `format`, which some loaders insist on"
            yield Finding(subject.untidy, "header", what, 'write it again with metadata {"format": "pt"}')
        elif told not in _FORMATS:
            what = f"{part.label}: its metadata say format {told!r}, which no loader knows"
            yield Finding("error", "header", what, f"known are {', '.join(_FORMATS)}")


def reader_accepts(subject: Subject) -> Iterator[Finding]:
    """The reader that merging uses opens it; asked last, for whatever it knows beyond the checks here."""
    if not subject.parts:
        return
    try:
        open_checkpoint(subject.path).close()
    except InputError as error:
        yield from from_problems(error, "reader", subject.untidy)
