"""Loading a torch pickle: what it asks for is checked first, then torch's weights-only reader loads it."""

from __future__ import annotations

import os
import pickletools
import re
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from weft.checkpoints.archive import ArchiveError, CompressedError, read_archive
from weft.checkpoints.pickle_calls import ForbiddenError, ProgramError
from weft.checkpoints.pickle_program import LONGEST, Storages, follow
from weft.checkpoints.plain_files import open_file
from weft.errors import InputError, shown

_SAFE = (2, 10)
"""The first torch whose weights-only reader is not known to be fooled by a crafted file: CVE-2025-32434 (until 2.5)
runs code, CVE-2026-24747 (until 2.9) corrupts memory."""

_CONVERT = "load it where you trust it (torch.load), and save its tensors with safetensors.torch.save_file"
_EXAMINED = 1 << 20
"""Bytes of a refused pickle that are searched for the name of what it asks for."""


def load(file: Path, is_zip: bool) -> tuple[Any, dict[int, int]]:
    """Load a pickle if it asks for tensors only.

    Args:
        file: where it is.
        is_zip: whether it begins as a zip archive; then it is mapped.

    Returns:
        What it holds; and for each storage in the archive, where its bytes begin and how many they are (none if they
        are held in memory or need conversion).

    Raises:
        InputError: if it is damaged, lies about its tensors, or asks for anything else.
    """
    torch = _torch(file)
    records = _checked_archive(file) if is_zip else {}
    if not is_zip:
        _check_stream(file)
    return _load(torch, file, is_zip), records


def _checked_archive(file: Path) -> dict[int, int]:
    """For each storage in an archive, where its bytes begin and how many they are; none if they need conversion.

    Raises:
        InputError: if it is damaged, compressed, or its program asks for more than tensors.
    """
    try:
        archive = read_archive(file, LONGEST)
    except CompressedError as error:
        what = f"{file}: the archive is compressed ({error}), which torch.save never does"
        raise InputError(what, _CONVERT) from None
    except ArchiveError as error:
        raise _damaged(file, f"{error}") from None
    storages = Storages({key: size for key, (_, size) in archive.storages.items()})
    with _understood(file):
        follow(BytesIO(archive.program), len(archive.program), storages)
    return {begin: size for begin, size in archive.storages.values() if size} if archive.is_native else {}


def _check_stream(file: Path) -> None:
    """Check a file of the older kind: four pickles, one of the storages' keys, then the storages.

    Raises:
        InputError: if it is damaged or asks for more than tensors.
    """
    storages = Storages()
    with open_file(file) as stream, _understood(file):
        size = os.fstat(stream.fileno()).st_size
        if tarfile.is_tarfile(stream):
            raise ProgramError("it is a tar archive")
        stream.seek(0)
        for _ in range(4):
            follow(stream, size - stream.tell(), storages)
        keys = follow(stream, size - stream.tell(), Storages())
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages.claimed):
            raise ProgramError("it does not hold the storages that it names")
        needed = sum(storages.claimed.values()) + 8 * len(keys)
        if needed > size - stream.tell():
            raise ProgramError(f"its storages need {needed:,} bytes, {size - stream.tell():,} are left")


@contextmanager
def _understood(file: Path) -> Iterator[None]:
    """What is wrong with a program, as an error that names the file."""
    try:
        yield
    except ForbiddenError as error:
        raise _code(file, f"it asks for {shown(str(error))[1:-1]}") from None
    except UnpicklingError as error:
        raise _refused(file, error) from None
    except Exception as error:  # a stranger's pickle can raise anything
        said = f"{error}" if isinstance(error, ProgramError) else f"{type(error).__name__}: {error}"
        raise _damaged(file, said) from None


def _load(torch: Any, file: Path, is_zip: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, weights_only=True, mmap=is_zip, map_location="cpu")
    except UnpicklingError as error:
        raise _refused(file, error) from None
    except Exception as error:  # a stranger's pickle can raise anything
        raise _damaged(file, f"{type(error).__name__}: {error}") from None


def _torch(file: Path) -> Any:
    try:
        import torch
    except ImportError:
        what, remedy = "reading torch pickles needs torch", 'pip install "weft[torch]", or convert to safetensors'
        raise InputError(f"{file}: {what}", remedy) from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE:
        wanted = ".".join(map(str, _SAFE))
        what = f"{file}: a crafted pickle can break into torch {torch.__version__}, even its weights-only reader"
        raise InputError(what, f'pip install "torch>={wanted}", or convert the file to safetensors')
    return torch


def _damaged(file: Path, said: str) -> InputError:
    what = f"{file}: not a torch checkpoint, or damaged ({said.partition(chr(10))[0][:200]})"
    return InputError(what, "download it again; if it is something else, convert it to safetensors")


def _refused(file: Path, error: UnpicklingError) -> InputError:
    culprit = _named_in(str(error)) or _first_global(file)
    if culprit is None and not _begins_like_a_pickle(file):
        return _damaged(file, "it does not begin as what torch.save writes")
    asks = f"it asks for {culprit}" if culprit else "it asks for more than torch's weights-only reader allows"
    return _code(file, asks)


def _code(file: Path, asks: str) -> InputError:
    return InputError(f"{file}: loading it may run code, so it was not loaded: besides tensors {asks}", _CONVERT)


def _named_in(message: str) -> str | None:
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)|Unsupported class (\S+)", message)
    return next((group for group in found.groups() if group), None) if found else None


def _begins_like_a_pickle(file: Path) -> bool:
    with open_file(file) as stream:
        return stream.read(4).startswith((b"\x80", b"PK\x03\x04"))


def _first_global(file: Path) -> str | None:
    """The first name outside torch that a pickle imports. It is looked at, not run."""
    text: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_in(file)):
            if opcode.name in ("GLOBAL", "INST"):
                text += str(argument).split(" ", 1)
            elif isinstance(argument, str):
                text.append(argument)
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not text[-2].startswith(("torch", "collections")):
                return f"{text[-2]}.{text[-1]}"
    except Exception:  # it serves a message only
        return None
    return None


def _pickle_in(file: Path) -> bytes:
    if _is_zip(file):
        return read_archive(file, LONGEST).program[:_EXAMINED]
    with open_file(file) as stream:
        return stream.read(_EXAMINED)


def _is_zip(file: Path) -> bool:
    with open_file(file) as stream:
        return stream.read(4) == b"PK\x03\x04"
