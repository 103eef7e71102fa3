"""What lies beside an output while it is made: how it is called, and whether it may be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from weft.errors import InputError

STAGING, OLD, LOCK = "weft-staging", "weft-old", "weft-lock"
SNAPSHOT, FRESH = "weft-snapshot", "weft-snapshot-new"
"""Of a measurement; the second is on its way to become the first."""
KINDS = (STAGING, OLD, LOCK, SNAPSHOT, FRESH)
JOURNAL = "journal"

_LONGEST = 255
"""Bytes of a name that file systems allow."""


def beside(target: Path, kind: str) -> Path:
    """The place beside an output for one of the kinds."""
    return target.parent / f".{target.name}.{kind}"


def targets_of(folder: Path) -> list[Path]:
    """The outputs in a folder beside which something lies."""
    found = {path.name.removeprefix(".").removesuffix(f".{k}") for k in KINDS for path in folder.glob(f".*.{k}")}
    return [folder / name for name in sorted(found) if name]


def is_ours(folder: Path) -> bool:
    """Whether something is a folder itself, not a link to one, and belongs to this user."""
    try:
        told = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(told.st_mode) and (not hasattr(os, "geteuid") or told.st_uid == os.geteuid())


def check_beside(target: Path) -> None:
    """See that what a merge puts beside an output can be put there.

    Raises:
        InputError: if the names would be too long, or something else is in the place of the staging folder: a link, or
            a folder of another user, through which the merge would write where nobody meant it to.
    """
    place = beside(target, STAGING)
    if len(os.fsencode(place.name)) > _LONGEST:
        most = _LONGEST - len(STAGING) - 2
        raise InputError(f"the output's name is too long: {target.name}", f"choose one of {most} bytes at most")
    if os.path.lexists(place) and not is_ours(place):
        raise InputError(f"{place} is not a folder of yours: a link, or somebody else's", "remove it")
