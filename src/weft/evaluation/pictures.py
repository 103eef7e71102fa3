"""Pictures that are opened when they are looked at: all of a data set at once may fill the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from weft.errors import InputError


@dataclass(frozen=True)
class Picture:
    """A picture in a file, or in a row of a data set.

    Attributes:
        where: for messages.
        held: gives what `datasets` keeps of a picture: its file's `bytes`, or else its `path`.
    """

    where: str
    held: Callable[[], Mapping[str, Any]]

    def content(self) -> bytes:
        """The file as it is, packed as its format packs it.

        Raises:
            InputError: if it cannot be read.
        """
        held = self.held()
        if held.get("bytes") is not None:
            return bytes(held["bytes"])
        try:
            return Path(held.get("path") or "").read_bytes()
        except OSError as error:
            raise self._bad(error) from None

    def digest(self) -> bytes:
        """Another one for another picture."""
        return hashlib.sha256(self.content()).digest()

    def opened(self) -> Any:
        """The picture in red, green and blue.

        Raises:
            InputError: if it is none that Pillow knows.
        """
        content = self.content()
        try:
            with import_module("PIL.Image").open(BytesIO(content)) as image:
                return image.convert("RGB")
        except OSError as error:
            raise self._bad(error) from None

    def _bad(self, error: OSError) -> InputError:
        return InputError(f"{self.where}: {error.strerror or error}", "mend the file, or the column that names it")
