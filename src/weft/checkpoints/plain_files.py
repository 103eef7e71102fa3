"""Opening files that may come from strangers: regular ones only, and JSON of a bounded length.

A pipe under the name of a config would wait for ever, a device has no end, and a list of empty lists takes twenty times
its length in memory.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

CONFIG_BYTES = 16_000_000
"""How long a configuration may be; the longest in use, quantised ones that list every layer, take one or two MB."""
LIST_BYTES = 200_000_000
"""How long an index or a vocabulary may be; the longest in use take some 40 MB."""

_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading, without buffering beyond what is asked for; never waits for another process.

    Raises:
        OSError: if it cannot be opened or is something else than a file, which its `strerror` says.
    """
    _check_regular(os.stat(path))  # opening a device can already do something
    stream = open(path, "rb", opener=_opened)  # noqa: SIM115 - it is returned open
    try:
        _check_regular(os.fstat(stream.fileno()))
    except OSError:
        stream.close()
        raise
    return stream


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((said for is_kind, said in _KINDS if is_kind(status.st_mode)), "it is something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file")


def read_json(path: Path, most: int = CONFIG_BYTES) -> Any:
    """What a JSON file holds.

    Args:
        path: the file, in UTF-8.
        most: how many bytes it may have. Parsing takes at most some thirty times as much memory.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too long, too deep or not JSON.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "config.json"
        >>> _ = path.write_text("[" * 100_000)
        >>> read_json(path)
        Traceback (most recent call last):
            ...
        ValueError: it is nested too deeply
    """
    return parsed_json(read_text(path, most))


def read_text(path: Path, most: int) -> str:
    """The text of a file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too long or not UTF-8.
    """
    with open_file(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is longer than {most // 10**6} MB")
    return content.decode("utf-8")


def parsed_json(text: str) -> Any:
    """See `read_json`."""
    try:
        parsed = json.loads(text)
        if _SURROGATE.search(text):  # half of a character can be read but never written
            json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    return parsed
