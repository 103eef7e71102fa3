"""Statistics of two data sets, put together as if they had been one; and what a file of statistics holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.locking import locked
from weft.errors import InputError, Problem, listed
from weft.statistics.files import About, check_output, numbers, write_statistics
from weft.statistics.tensors import open_tensors

if TYPE_CHECKING:
    from torch import Tensor

_MUST_AGREE = ("kind", "task", "labels", "samples", "partition")


@dataclass(frozen=True)
class Contents:
    """What a tensor of statistics holds.

    Attributes:
        name, shape: which.
        mean, largest: of its finite numbers.
        zeros: the share of numbers that are 0: nothing is known there.
        bad: how many are NaN, infinite or, in a Fisher, negative.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    largest: float
    zeros: float
    bad: int


def look(path: Path) -> tuple[About, list[Contents]]:
    """What a file of statistics says of itself, and what its tensors hold.

    Raises:
        InputError: if it is not one.
    """
    with _opened(path) as checkpoint:
        about = About.read(checkpoint)
        return about, [_looked(checkpoint, name, about.kind) for name in checkpoint.tensors]


def _looked(checkpoint: Checkpoint, name: str, kind: str) -> Contents:
    total, largest, zeros, bad, size = 0.0, 0.0, 0, 0, 0
    for part in numbers(checkpoint, name):
        wrong = ~np.isfinite(part) | ((part < 0.0) if kind == "fisher" else False)
        fine = np.where(wrong, 0.0, part)
        total, largest = total + float(fine.sum()), max(largest, float(np.abs(fine).max(initial=0.0)))
        zeros, bad, size = zeros + int((part == 0.0).sum()), bad + int(wrong.sum()), size + part.size
    return Contents(name, checkpoint.tensors[name].shape, total / max(size, 1), largest, zeros / max(size, 1), bad)


def add(paths: Sequence[Path], output: Path, *, overwrite: bool = False) -> About:
    """Write the statistics of several data sets together, each weighted by how much was measured.

    Each is a mean over examples, a Gram matrix one over what its layer has seen, so that these are the weights.
    The result is that of measuring all data at once, but for rounding.

    Args:
        paths: files of statistics of one model, measured in one way.
        output: a `.safetensors` file.
        overwrite: whether it may replace a file.

    Returns:
        What the new file says of itself.

    Raises:
        InputError: for files that do not belong together.
    """
    if len(paths) < 2:
        raise InputError("adding takes two files of statistics or more", "name them all")
    check_output(output, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(locked(output))
        files = [stack.enter_context(_opened(path)) for path in paths]
        told = [About.read(file) for file in files]
        problems = [p for file, about in zip(files[1:], told[1:]) for p in _misfits(files[0], told[0], file, about)]
        if problems:
            raise InputError(problems)
        about = _together(files, told)
        write_statistics(
            output, files[0].tensors.values(),
            lambda name: _sum(files, told, name), about.metadata,
        )  # fmt: skip
    return about


def _misfits(first: Checkpoint, about: About, other: Checkpoint, its: About) -> Iterator[Problem]:
    """What keeps two files from being added."""
    for key in _MUST_AGREE:
        a, b = getattr(about, key), getattr(its, key)
        if a != b:
            what = f"{key} is {str(a) or 'none'} in {first.label} but {str(b) or 'none'} in {other.label}"
            yield Problem(what, "add statistics that were measured in one way")
            return
    if about.base_marks != its.base_marks:
        what = f"{other.label} was measured with the base {its.base}, {first.label} with {about.base}: not the same"
        yield Problem(what, "add statistics of one model and one base on several data sets")
    elif about.marks != its.marks:
        what = f"{other.label} was measured on {its.model}, {first.label} on {about.model}: not the same model"
        yield Problem(what, "add statistics of one model on several data sets")
    elif {n: s.shape for n, s in first.tensors.items()} != {n: s.shape for n, s in other.tensors.items()}:
        differing = first.tensors.keys() ^ other.tensors.keys() or {
            name for name in first.tensors if first.tensors[name].shape != other.tensors[name].shape
        }
        yield Problem(
            f"{first.label} and {other.label} do not hold the same tensors: {listed(sorted(differing))}",
            "measure both with the same options",
        )
    elif about.data_sha256 == its.data_sha256 and about.seed == its.seed:
        what = f"{first.label} and {other.label} were measured on the same data, which would count twice"
        yield Problem(what, "add statistics of different data")


def _weights(told: Sequence[About], name: str) -> list[float]:
    """By how much each counts; a layer that has seen nothing anywhere has zeros anywhere."""
    counts = [about.rows[name] if about.kind == "gram" else about.examples for about in told]
    return [count / max(sum(counts), 1) for count in counts]


def _sum(files: Sequence[Checkpoint], told: Sequence[About], name: str) -> Tensor:
    import torch

    made = torch.from_numpy(_added(files, told, name).astype(np.float32))
    return made.reshape(files[0].tensors[name].shape)


def _added(files: Sequence[Checkpoint], told: Sequence[About], name: str) -> Array:
    parts = [np.concatenate([np.zeros(0), *numbers(file, name)]) * w for file, w in zip(files, _weights(told, name))]
    total: Array = np.sum(parts, axis=0)
    return total


def _together(files: Sequence[Checkpoint], told: Sequence[About]) -> About:
    hashes = "".join(about.data_sha256 for about in told)
    return replace(
        told[0],
        examples=sum(about.examples for about in told),
        tokens=sum(about.tokens for about in told),
        rows={name: sum(about.rows[name] for about in told) for name in told[0].rows},
        data=" + ".join(about.data for about in told),
        data_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        norm=_norm(files, told) if told[0].norm is not None else None,
    )


def _norm(files: Sequence[Checkpoint], told: Sequence[About]) -> float:
    """The length of the sum; names that are one tensor hold the same numbers, and count once."""
    seen: set[bytes] = set()
    total = 0.0
    for name, spec in files[0].tensors.items():
        values = _added(files, told, name).astype(np.float32)
        mark = hashlib.sha256(repr(spec.shape).encode() + values.tobytes()).digest()
        if mark not in seen:
            total += float(np.square(values.astype(np.float64)).sum())
        seen.add(mark)
    return sqrt(total)


def _opened(path: Path) -> AbstractContextManager[Checkpoint]:
    return closing(open_tensors(path))
