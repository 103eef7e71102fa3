"""From whatever a person names to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.float8 import dequantized
from weft.checkpoints.folders import check_index, find_weights
from weft.checkpoints.foreign import refuse_file, refuse_quantised_folder, refuse_quantised_tensors
from weft.checkpoints.hub import fetch, is_hub_id
from weft.checkpoints.hub_headers import open_headers
from weft.checkpoints.hub_ranges import Remote
from weft.checkpoints.memory import InMemory, is_module
from weft.checkpoints.pickled import PickledCheckpoint
from weft.checkpoints.pipeline import Pipeline, components, parts_of, remarks
from weft.checkpoints.safetensors import SafetensorsCheckpoint
from weft.errors import InputError, Problem

Source = Any
"""A path, a dict of tensors or an `nn.Module`."""


def open_checkpoint(source: Source, label: str = "a state dict") -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: an id on the Hub, `org/name@revision`; the path of a `.safetensors` file, of a torch pickle (`.bin`,
            `.pt`, `.pth`, `.ckpt`), of an index, of a model folder or of a diffusers pipeline's folder; a dict of torch
            tensors or numpy arrays; a `torch.nn.Module`.
        label: what to call an in-memory source in messages.

    Raises:
        InputError: if it is none of these, or damaged, or quantised.

    Example:
        >>> import numpy as np
        >>> str(open_checkpoint({"w": np.zeros((2, 3), np.float32)}).tensors["w"])
        'float32 [2, 3]'
    """
    if isinstance(source, str) and is_hub_id(source):
        return open_path(fetch(source).path)
    if isinstance(source, (str, os.PathLike)):
        return open_path(expanded(source))
    if is_module(source):
        return _unquantised(InMemory(source.state_dict(), label))
    if isinstance(source, Mapping):
        return _unquantised(InMemory(source, label))
    remedy = "pass a path, a dict of tensors or an nn.Module"
    raise InputError(f"{label}: cannot read tensors from a {type(source).__name__}", remedy)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in the place of `~`.

    Raises:
        InputError: for the home of a user that this machine does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        remedy = f"write the whole path, or ./{os.fspath(path)} for a folder of that name"
        raise InputError(f"{path}: there is no user {Path(path).parts[0].removeprefix('~')!r} here", remedy) from None


def open_path(path: Path) -> Checkpoint:
    """Open a file, an index, a model folder or a pipeline's folder.

    Raises:
        InputError: naming what is missing, damaged or of another kind than weights that can be merged.
    """
    try:
        parts = parts_of(path)
        return _open_pipeline(path, parts) if parts else _open_model(path)
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise InputError(f"{path}: {error.strerror}", "check the path and the permissions") from None


def open_remote(remote: Remote) -> Checkpoint:
    """Open what a plan needs of a repository on the Hub: a model, or a pipeline, without its numbers.

    Raises:
        InputError: as `open_path`.
    """
    folders = {name.rpartition("/")[0] for name in remote.sizes}
    names = [name for name in components(remote.folder) if name in folders]
    if not names:
        return _open_headers(remote)
    return Pipeline(remote.folder, {name: _open_headers(remote, name) for name in names})


def _open_headers(remote: Remote, part: str = "") -> Checkpoint:
    refuse_quantised_folder(remote.folder / part)
    return _unquantised(open_headers(remote, part))


def _open_pipeline(path: Path, names: tuple[str, ...]) -> Checkpoint:
    """All parts, or the problems of all that cannot be opened."""
    parts: dict[str, Checkpoint] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            parts[name] = _open_model(path / name)
        except InputError as error:
            problems += error.problems
    if problems:
        for part in parts.values():
            part.close()
        raise InputError(problems)
    return Pipeline(path, parts, tuple(remarks(path)))


def _open_model(path: Path) -> Checkpoint:
    if path.is_file():
        refuse_file(path)
    weights = find_weights(path)
    if path.is_dir():
        refuse_quantised_folder(path)
    for file in weights.files:
        refuse_file(file)
    opened = PickledCheckpoint if weights.are_pickled else SafetensorsCheckpoint
    checkpoint = opened(weights.path, weights.files, weights.stem)
    try:
        check_index(weights, checkpoint)
    except InputError:
        checkpoint.close()
        raise
    return _unquantised(checkpoint)


def _unquantised(checkpoint: Checkpoint) -> Checkpoint:
    """Float8 is decoded; other codes are refused."""
    try:
        refuse_quantised_tensors(checkpoint)
        return dequantized(checkpoint)
    except InputError:
        checkpoint.close()
        raise
