"""Files of statistics: written complete or not at all, with what they were measured on and how in their metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.marks import KINDS, Marks
from weft.checkpoints.swap import sync
from weft.errors import InputError, WeftError
from weft.statistics.tensors import file_parts
from weft.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "1"
"""The version of the format, in the metadata under `weft_statistics`."""


class MeasureError(WeftError):
    """Measuring began and could not be finished. The file does not exist."""


@dataclass(frozen=True)
class About:
    """What a file of statistics says of itself.

    Attributes:
        kind: one of `KINDS`.
        model: what the user called the model.
        marks: of its checkpoint.
        task: what it predicts.
        labels: where labels came from; empty where none were used.
        samples: labels drawn for each example, where they were.
        seed: of what was drawn.
        examples, tokens: how many were measured.
        data: what the user called the data; several, if statistics were added.
        data_sha256: of what the model was given.
        norm: of a Fisher or a gradient, the length of all of it; tied tensors count once.
        versions: of the libraries.
        rows: of Gram matrices, how many vectors each is a mean over.
        partition: of importances, what the parts are.
        base: of importances, what the user called the model that parts were put into.
        base_marks: of its checkpoint.
    """

    kind: str
    model: str
    marks: Marks
    task: str
    labels: str
    samples: int
    seed: int
    examples: int
    tokens: int
    data: str
    data_sha256: str
    norm: float | None = None
    versions: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    partition: str = ""
    base: str = ""
    base_marks: Marks | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """As it stands in the header; the same measurement says the same, whenever it is made."""
        told: dict[str, Any] = {
            "format": "pt", "weft_statistics": FORMAT, "kind": self.kind, "model": self.model, **self.marks.metadata(),
            "task": self.task, "labels": self.labels, "samples": self.samples, "seed": self.seed,
            "examples": self.examples, "tokens": self.tokens, "data": self.data, "data_sha256": self.data_sha256,
            "versions": self.versions,
        }  # fmt: skip
        if self.norm is not None:
            told["norm"] = repr(self.norm)
        if self.kind == "gram":
            told["rows"] = json.dumps(dict(self.rows), separators=(",", ":"))
        if self.base_marks is not None:
            told |= {"partition": self.partition, "base": self.base, **self.base_marks.metadata("base")}
        return {key: str(value) for key, value in told.items()}

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> About:
        """What a file says.

        Raises:
            InputError: if it was not written here, or says what cannot be.
        """
        told = checkpoint.metadata
        if told.get("weft_statistics") != FORMAT:
            what = f"{checkpoint.label}: says nothing of what it was measured on"
            raise InputError(what, "what `weft fisher` and the other commands that measure a model wrote is meant")
        marks = Marks.told(told)
        try:
            figures: dict[str, Any] = {key: int(told[key]) for key in ("samples", "seed", "examples", "tokens")}
            words: dict[str, Any] = {
                key: told[key] for key in ("kind", "model", "task", "labels", "data", "data_sha256", "versions")
            }
            norm = float(told["norm"]) if "norm" in told else None
            rows = {str(name): int(count) for name, count in json.loads(told.get("rows", "{}")).items()}
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{checkpoint.label}: its metadata are damaged: {error}", "measure it again") from None
        if words["kind"] == "gram" and rows.keys() != checkpoint.tensors.keys():
            raise InputError(f"{checkpoint.label}: its metadata do not fit its tensors", "measure it again")
        if marks is None or words["kind"] not in KINDS or figures["examples"] < 1 or not isfinite(norm or 0.0):
            raise InputError(f"{checkpoint.label}: its metadata are damaged", "measure it again")
        words |= {key: told.get(key, "") for key in ("partition", "base")}
        return cls(marks=marks, norm=norm, rows=rows, base_marks=Marks.told(told, "base"), **figures, **words)


def check_output(path: Path, *, overwrite: bool) -> None:
    """See that a file can be written.

    Raises:
        InputError: for a folder, a place that is not there, another kind of file, or one that would be overwritten.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: statistics are safetensors files", f"name it {path.with_suffix('.safetensors')}")
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is not a file", "choose another name")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", "create it first")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists", "add --overwrite to replace it, or choose another name")


def write_statistics(
    path: Path, specs: Iterable[TensorSpec], tensor: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> int:
    """Write a file of statistics; it appears complete, or what was there stays.

    Args:
        path: the file.
        specs: its tensors.
        tensor: makes each when it is its turn, so that no more than one is held beside what it is made of.
        metadata: see `About`.

    Returns:
        The number of bytes.

    Raises:
        MeasureError: if the disk does not take it.
    """
    kept = list(specs)
    fresh = path.with_name(f".{path.name}.weft-new")
    try:
        with fresh.open("wb") as stream:
            size = sum(stream.write(part) for part in file_parts(kept, (tensor(s.name) for s in kept), metadata))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise MeasureError(f"{path}: cannot be written: {error.strerror}") from error
    return size


def numbers(checkpoint: Checkpoint, name: str) -> Iterator[Array]:
    """A tensor's numbers as float64, flat, in pieces."""
    from weft.kernels.decoding import decoded

    spec, length = checkpoint.tensors[name], 1 << 20
    buffer = np.empty(length * spec.dtype.itemsize, np.uint8)
    for start in range(0, spec.size, length):
        raw = checkpoint.read(name, start, min(start + length, spec.size), buffer)
        yield decoded(raw, spec.dtype).astype(np.float64)


def versions() -> str:
    """Of this program and the libraries that a measurement depends on."""
    from importlib.metadata import version

    return ", ".join([f"weft {__version__}", *(f"{name} {version(name)}" for name in ("torch", "transformers"))])
