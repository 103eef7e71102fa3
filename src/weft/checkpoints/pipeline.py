"""A diffusers pipeline: the models in the sub-folders of one folder, as one checkpoint.

`model_index.json` lists a pipeline's components; those with weights are its **parts**. A tensor of a part is called by
the part's folder, a slash, and its name in the part's own files: `unet/conv_in.weight`. So `match: "unet/*"` is a rule
for one part, and `match: "*/conv_in.weight"` one for all. Names cannot collide: the name of a folder holds no slash, so
that what stands before the first one is the part, whatever follows.

Entries of a part's metadata go by such names too, as a figure that holds for one part says nothing of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.folders import holds_weights
from weft.checkpoints.plain_files import read_json
from weft.checkpoints.sources import SourceFile
from weft.errors import InputError, listed
from weft.kernels.dtypes import DType

LISTING = "model_index.json"
SEPARATOR = "/"


def part_of(name: str) -> str:
    """The part that a tensor of a pipeline belongs to; empty for a name without one.

    Example:
        >>> part_of("unet/conv_in.weight"), part_of("conv_in.weight")
        ('unet', '')
    """
    part, separator, _ = name.partition(SEPARATOR)
    return part if separator else ""


class Pipeline(Checkpoint):
    """The tensors of several checkpoints, each under the name of its part.

    Args:
        path: the pipeline's folder.
        parts: for each part's folder its checkpoint; all are closed with this one.
        notes: what a person should know about how it is read.
    """

    def __init__(self, path: Path, parts: Mapping[str, Checkpoint], notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.label = str(path)
        self.stem = MappingProxyType({part: c.stem for part, c in parts.items() if isinstance(c.stem, str)})
        self._parts = dict(parts)
        self._notes = notes
        full = {(part, name): f"{part}{SEPARATOR}{name}" for part, c in parts.items() for name in c.tensors}
        self._places = {new: place for place, new in full.items()}
        self.tensors = MappingProxyType(
            {new: replace(parts[part].tensors[name], name=new) for (part, name), new in full.items()}
        )
        tied = {full[part, a]: full[part, b] for part, c in parts.items() for a, b in c.tied.items()}
        self.tied = MappingProxyType(tied)
        said = {f"{part}{SEPARATOR}{key}": text for part, c in parts.items() for key, text in c.metadata.items()}
        self.metadata = MappingProxyType(said)

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; as the part."""
        part, own = self._places[name]
        return self._parts[part].read(own, start, stop, buffer)

    def file_of(self, name: str) -> str:
        """As the part, which has a file of its own."""
        part, own = self._places[name]
        return self._parts[part].file_of(own)

    def stored_dtype(self, name: str) -> DType:
        """As the part."""
        part, own = self._places[name]
        return self._parts[part].stored_dtype(own)

    @property
    def notes(self) -> tuple[str, ...]:
        """Its own, then its parts'."""
        return (*self._notes, *(note for part in self._parts.values() for note in part.notes))

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Those of its parts."""
        return tuple(file for part in self._parts.values() for file in part.sources)

    @property
    def is_resident(self) -> bool:
        """Whether all parts are."""
        return all(part.is_resident for part in self._parts.values())

    @property
    def is_computed(self) -> bool:
        """Whether any part is."""
        return any(part.is_computed for part in self._parts.values())

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts.values():
            part.close()


def components(folder: Path) -> tuple[str, ...]:
    """The folders that a pipeline lists, in its order, whether or not they exist; none if this is no pipeline.

    Args:
        folder: any folder.

    Raises:
        InputError: for a listing that is not JSON, or names what lies elsewhere.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> unet = {"unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": [None, None]}
        >>> _ = (folder / "model_index.json").write_text(json.dumps({"_class_name": "X", **unet}))
        >>> components(folder)
        ('unet',)
    """
    path = folder / LISTING
    if not path.is_file():
        return ()
    try:
        parsed = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}", "download it again") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: is not a JSON object", "download it again")
    names = tuple(key for key, value in parsed.items() if not key.startswith("_") and is_component(value))
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
            raise InputError(f"{path}: {name!r} is not the name of a sub-folder", "do not use this pipeline")
    return names


def is_component(value: object) -> bool:
    """Whether an entry of the listing is a component, a library and a class; `[null, null]` is one left out."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)


def parts_of(folder: Path) -> tuple[str, ...]:
    """The components with weights, or with the config of a model, which then should have weights.

    Raises:
        InputError: as `components`.
    """
    return tuple(name for name in components(folder) if _is_model(folder / name))


def _is_model(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        config = {}
    stated = isinstance(config, dict) and ("architectures" in config or "_class_name" in config)
    return stated or holds_weights(folder)


def unlisted(folder: Path) -> tuple[str, ...]:
    """Sub-folders with weights that are no component of the pipeline."""
    known = components(folder)
    others = (p for p in sorted(folder.iterdir()) if p.name not in known and not p.name.startswith("."))
    return tuple(p.name for p in others if p.is_dir() and holds_weights(p))


def remarks(folder: Path) -> Iterator[str]:
    """What a person should know of a pipeline's folders."""
    absent = [name for name in components(folder) if not (folder / name).exists()]
    if absent:
        yield f"{folder}: {LISTING} lists {listed(absent)}, but there is no such folder"
    others = unlisted(folder)
    if others:
        yield f"{folder}: weights in {listed(others)} are left out, as {LISTING} does not list them"
