"""Where a file of evaluation's may go: never onto an input, and onto an older file only if Weft wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from json import JSONDecodeError, loads
from pathlib import Path

from weft.errors import InputError

PAGE_MARK = '<meta name="generator" content="weft report">'
"""Stands near the beginning of every page that `weft report` writes."""
_HEAD = 2000
"""Characters of a page that are searched for the mark."""


def check_output(
    path: Path, *, inputs: Iterable[Path], is_ours: Callable[[Path], bool], what: str, overwrite: bool
) -> None:
    """See that a file may be written; nothing is.

    Args:
        path: the file that is to appear.
        inputs: files and folders that are read; those that do not exist (such as names on the Hub) are passed over.
        is_ours: whether an existing file is an earlier output of the same command, which may be replaced.
        what: what an earlier output is called in the message, such as "a page of weft report".
        overwrite: whether any other file may be replaced, too; an input never is.

    Raises:
        InputError: if it is an input or a file in one, a folder, in a folder that is not there, or another's file.

    Example:
        >>> check_output(Path("no/page.html"), inputs=(), is_ours=is_page, what="a page", overwrite=False)
        Traceback (most recent call last):
        weft.errors.InputError: no: no such folder
          -> create it first: mkdir -p no
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise InputError(f"the output {path} is not a file", "name a file")
    parent = path.parent
    if parent.exists() and not parent.is_dir():
        raise InputError(f"the output {path} cannot exist: {parent} is a file", "choose another output")
    if not parent.exists():
        raise InputError(f"{parent}: no such folder", f"create it first: mkdir -p {parent}")
    if path.exists():
        _check_existing(path, inputs, is_ours(path), what, overwrite)


def _check_existing(path: Path, inputs: Iterable[Path], ours: bool, what: str, overwrite: bool) -> None:
    for each in inputs:
        if each.is_file() and path.samefile(each):
            raise InputError(f"the output {path} is an input", "choose another output")
        if not ours and each.is_dir() and _is_in(path, each):
            raise InputError(f"the output {path} is a file of the input {each}", "choose another output")
    if not ours and not overwrite:
        raise InputError(
            f"{path} exists and is not {what}", "choose another output, or replace it with --overwrite (overwrite=True)"
        )


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, under whatever name: links are followed."""
    return any(file.is_file() and path.samefile(file) for file in folder.rglob("*"))


def is_page(path: Path) -> bool:
    """Whether a file is a page that `weft report` wrote."""
    try:
        with path.open(encoding="utf-8") as file:
            return PAGE_MARK in file.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        return False


def is_results(path: Path) -> bool:
    """Whether a file is results that `weft evaluate` or a benchmark wrote."""
    try:
        told = loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JSONDecodeError, RecursionError):
        return False
    return isinstance(told, dict) and {"tasks", "rows", "split"} <= told.keys()
