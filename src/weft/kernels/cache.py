"""Where compiled kernels are kept: a folder that every process of a person shares, each file named by its content."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

_DIGEST = 32
"""Bytes of a SHA-256, which every file of machine code begins with."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$WEFT_CACHE`, or the platform's cache folder for applications."""
    chosen = os.environ.get("WEFT_CACHE")
    return (Path(chosen) if chosen else platformdirs.user_cache_path("weft")) / "kernels"


def kernels_cached() -> int:
    """How many kernels were compiled before: 0 on a machine that never merged."""
    return sum(1 for _ in cache_folder().glob("*.py"))


def digest(text: str) -> str:
    """A short name for a text, which no other has.

    Example:
        >>> digest("a") == digest("a") != digest("b")
        True
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep(name: str, content: bytes) -> Path:
    """Write a file, whole or not at all, unless it is there; to a folder of our own if the cache is read-only."""
    try:
        return _kept_in(cache_folder(), name, content)
    except OSError:
        return _kept_in(_private_folder(), name, content)


def keep_code(name: str, code: bytes) -> None:
    """Keep machine code, sealed so that what was damaged is noticed."""
    keep(name, hashlib.sha256(code).digest() + code)


def kept_code(name: str) -> bytes | None:
    """Machine code that was kept before; None if it was not, or was damaged."""
    try:
        sealed = (cache_folder() / name).read_bytes()
    except OSError:
        return None
    seal, code = sealed[:_DIGEST], sealed[_DIGEST:]
    return code if hashlib.sha256(code).digest() == seal else None


def _kept_in(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        with tempfile.NamedTemporaryFile("wb", dir=folder, suffix=".tmp", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    return path


@cache
def _private_folder() -> Path:
    """A folder that nobody else can write to, gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="weft-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
