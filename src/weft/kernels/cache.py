"""Where compiled kernels are kept: a folder of all processes of a person, with files named by what they depend on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

_DIGEST = 32
"""Bytes of a SHA-256, which every file of machine code begins with."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$WEFT_CACHE`, or the platform's cache folder for applications."""
    chosen = os.environ.get("WEFT_CACHE")
    return (Path(chosen) if chosen else platformdirs.user_cache_path("weft")) / "kernels"


def kernels_cached() -> int:
    """How many loops were asked for before: 0 on a machine that never merged."""
    return sum(1 for _ in cache_folder().glob("*.py"))


def digest(text: str) -> str:
    """A short name for a text, which no other has.

    Example:
        >>> digest("a") == digest("a") != digest("b")
        True
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep(name: str, content: bytes) -> Path:
    """Write a file, whole or not at all, unless it is there or cannot be written; where it is, or would be."""
    path = cache_folder() / name
    with suppress(OSError):  # a cache that cannot be written costs time in the next process, and nothing else
        _write(path, content)
    return path


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


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        return
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise
