"""Doing a merge again from what it left behind, and making sure that the result is the same, byte for byte."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.checkpoints.opening import expanded
from weft.checkpoints.plain_files import read_json
from weft.engine.inputs import open_inputs
from weft.engine.merging import Report, merge_to
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.record import LOCK, RECIPE, content_hash, fingerprints
from weft.errors import InputError, MergeError, Problem
from weft.recipes.loading import load_recipe
from weft.recipes.schema import Recipe
from weft.version import __version__


def reproduce(
    previous: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Merge again as an earlier output says, and compare.

    Args:
        previous: the folder that an earlier merge wrote, with its recipe and lock file.
        output: where the new output shall appear.
        progress: is told what happens.
        **options: as for `merge_to`.

    Raises:
        InputError: if the recipe or the lock file is missing, or an input is not what it was.
        MergeError: if the new output differs from the old one; it is kept, so that the two can be compared.
    """
    folder, progress = expanded(previous), progress or Progress()
    recipe, lock = load_recipe(folder / RECIPE), _lock_of(folder)
    _check_inputs(recipe, lock)
    if lock.get("weft") != __version__:
        progress.warning(f"{folder} was written by weft {lock.get('weft')}, this is {__version__}")
    report = merge_to(recipe, output, progress=progress, **options)
    differing = [
        name for name in report.files if not _same(folder / name, report.output / name, lock["outputs"].get(name, {}))
    ]
    if differing:
        why = _why(folder, differing, lock)
        raise MergeError(f"{report.output} differs from {folder} in {', '.join(differing)}: {why}")
    return replace(report, reproduced=folder)


def _why(folder: Path, differing: Sequence[str], lock: Mapping[str, Any]) -> str:
    """What is known of the cause."""
    if all("blake3" in lock["outputs"].get(name, {}) for name in differing):
        return "weights of an input have changed since, though their names and shapes have not"
    return (
        f"weights of an input have changed since, or {folder} has (a merge with --hash can tell which); "
        "the new output is kept, to be compared"
    )


def _lock_of(folder: Path) -> dict[str, Any]:
    try:
        lock = read_json(folder / LOCK)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / LOCK}: {error}", "only an output of `weft merge` can be reproduced") from None
    if not isinstance(lock, dict) or not {"inputs", "outputs"} <= lock.keys():
        raise InputError(f"{folder / LOCK}: is not a lock file", "only an output of `weft merge` can be reproduced")
    return lock


def _check_inputs(recipe: Recipe, lock: dict[str, Any]) -> None:
    with closing(open_inputs(recipe)) as inputs:
        _compare(fingerprints(inputs), lock["inputs"])
        make_plan(recipe, inputs)  # which opens what stands beside the models
        _compare(fingerprints(inputs), lock["inputs"])


def _compare(now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    changed = [label for label, told in now.items() if label in then and told != then[label]]
    if changed:
        remedy = "get the inputs back as they were, or merge anew from the recipe"
        raise InputError(
            Problem(f"{label} is not what it was: {then[label]} then, {now[label]} now", remedy) for label in changed
        )


def _same(old: Path, new: Path, told: dict[str, Any]) -> bool:
    if "blake3" in told:
        return bool(content_hash(new) == told["blake3"])
    return old.is_file() and filecmp.cmp(old, new, shallow=False)
