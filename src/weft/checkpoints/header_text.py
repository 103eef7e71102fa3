"""The JSON of a safetensors header, read entry by entry.

A general parser would build whatever the text says before anybody can look at it: a hundred megabytes of `[],` become
more than two gigabytes. Here nothing is kept but names, and for each a format, sizes and two positions, so that memory
stays within a few times the text. The form in which every writer puts an entry is read with one regular expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from weft.errors import shown

LONGEST_ENTRY = 4096
"""Characters of one tensor's entry: 64 sizes of 19 digits fit."""
METADATA = "__metadata__"

_SPACE = re.compile(r"[ \t\n\r]*")
_COUNT = r"(?:0|[1-9][0-9]{0,17})"
_USUAL = re.compile(
    rf'[ ]?\{{"dtype":[ ]?"(\w+)",[ ]?"shape":[ ]?\[((?:{_COUNT}(?:,[ ]?{_COUNT})*)?)\],'
    rf'[ ]?"data_offsets":[ ]?\[({_COUNT}),[ ]?({_COUNT})\]\}}',
    re.ASCII,
)


class MetadataError(ValueError):
    """The metadata are not a map of text to text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor.

    Attributes:
        is_usual: whether sizes and positions are known to be whole numbers from 0 to below 10^18.
    """

    dtype: Any
    shape: Any
    offsets: Any
    is_usual: bool = False


def parsed_header(text: str) -> tuple[dict[str, Entry | None], dict[str, str]]:
    """The entries of a header, and its metadata.

    Args:
        text: all of the header.

    Returns:
        For each name its entry, or None where it lacks a part; and the metadata.

    Raises:
        MetadataError: if the metadata are not a map of text to text.
        ValueError: if it is not JSON, not an object, or names something twice.

    Example:
        >>> parsed_header('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}')[0]["w"].shape
        (2,)
    """
    reader = _Reader(text)
    entries: dict[str, Entry | None] = {}
    metadata: dict[str, str] | None = None
    if not reader.takes("{"):
        raise ValueError(f"it is not a JSON object but begins with {shown(text[:20])}")
    for name in reader.names():
        if name in entries or (name == METADATA and metadata is not None):
            raise ValueError(f"{shown(name)} occurs twice")
        if name == METADATA:
            metadata = reader.texts()
        else:
            entries[name] = reader.entry()
    reader.end()
    return entries, metadata or {}


class _Reader:
    """A place in a text that moves on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def takes(self, character: str) -> bool:
        """Whether the next character that is no space is this one; then it is behind us."""
        place = self._place
        if self._text[place : place + 1].isspace():
            place = _SPACE.match(self._text, place).end()  # type: ignore[union-attr]
        found = self._text[place : place + 1] == character
        self._place = place + 1 if found else place
        return found

    def _must_take(self, character: str) -> None:
        if not self.takes(character):
            raise ValueError(f"{character!r} is missing at character {self._place}")

    def names(self) -> Iterator[str]:
        """The keys of an object whose brace is behind us; after each, its value must be taken."""
        if self.takes("}"):
            return
        while True:
            key = self._string()
            self._must_take(":")
            yield key
            if self.takes("}"):
                return
            self._must_take(",")

    def _string(self) -> str:
        self._must_take('"')
        value, self._place = scanstring(self._text, self._place, True)
        return str(value)

    def texts(self) -> dict[str, str]:
        """An object of text to text."""
        if not self.takes("{"):
            raise MetadataError
        found: dict[str, str] = {}
        for key in self.names():
            if not self.takes('"'):
                raise MetadataError
            self._place -= 1
            if key in found:
                raise ValueError(f"{shown(key)} occurs twice in {METADATA}")
            found[key] = self._string()
        return found

    def entry(self) -> Entry | None:
        """One tensor's entry."""
        usual = _USUAL.match(self._text, self._place)
        if usual is None:
            return self._other_entry()
        self._place = usual.end()
        dtype, shape, begin, end = usual.groups()
        return Entry(dtype, tuple(map(int, shape.split(","))) if shape else (), (int(begin), int(end)), True)

    def _other_entry(self) -> Entry | None:
        """An entry in another order or with other things in it."""
        place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
        piece = self._text[place : place + LONGEST_ENTRY]
        try:
            parsed, length = _DECODER.raw_decode(piece)
        except RecursionError:
            raise ValueError(f"it is nested too deeply at character {place}") from None
        except json.JSONDecodeError as error:
            long = f", or an entry is longer than {LONGEST_ENTRY} characters" if len(piece) == LONGEST_ENTRY else ""
            raise ValueError(f"{error.msg} at character {place + error.pos}{long}") from None
        self._place = place + length
        if not isinstance(parsed, dict) or not {"dtype", "shape", "data_offsets"} <= parsed.keys():
            return None
        return Entry(parsed["dtype"], parsed["shape"], parsed["data_offsets"])

    def end(self) -> None:
        """Nothing but space may follow."""
        place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
        if place != len(self._text):
            raise ValueError(f"something follows it at character {place}: {shown(self._text[place : place + 20])}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if [key for key, _ in pairs].count(name) > 1)
        raise ValueError(f"{shown(twice)} occurs twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)
