"""Which token has which row: the vocabulary that lies in a model's folder, read as plain JSON and text.

Understood are `tokenizer.json` (BPE, WordPiece, WordLevel, Unigram), else `vocab.json` or `vocab.txt`, the latter two
with the tokens of `added_tokens.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weft.checkpoints.plain_files import LIST_BYTES, open_file, parsed_json, read_json, read_text
from weft.errors import InputError

FAST = "tokenizer.json"
_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
_PLAIN = ("vocab.json", "vocab.txt")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
_REMEDY = "copy it from the model again"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids.

    Attributes:
        ids: the id of each token, in the order of ids.
        added: for each token that was added to the tokenizer's own, its flags as in `tokenizer.json`.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.ids.values(), default=-1) + 1


@dataclass(frozen=True)
class VocabularyFiles:
    """Where a vocabulary is written down.

    Attributes:
        files: the file of the tokens and, if there is one, that of added tokens.
        digest: equal for files of equal content.
    """

    files: tuple[Path, ...]
    digest: str

    @property
    def is_fast(self) -> bool:
        """Whether it is a `tokenizer.json`."""
        return self.files[0].name == FAST

    def read(self) -> Vocabulary:
        """The vocabulary.

        Raises:
            InputError: naming the file that is no vocabulary.
        """
        ids: dict[str, int] = {}
        added: dict[str, Mapping[str, Any]] = {}
        for file in self.files:
            try:
                _READERS[file.name](read_text(file, LIST_BYTES), ids, added)
            except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
                raise InputError(f"{file}: is not a vocabulary: {error or type(error).__name__}", _REMEDY) from None
        by_id = dict(sorted(ids.items(), key=lambda item: item[1]))
        return Vocabulary(MappingProxyType(by_id), MappingProxyType(added))


def find_vocabulary(folder: Path) -> VocabularyFiles | None:
    r"""The files of a folder's vocabulary, if it has one that Weft can read.

    Args:
        folder: a model's folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "vocab.txt").write_text("[PAD]\nhello\n")
        >>> dict(find_vocabulary(folder).read().ids)
        {'[PAD]': 0, 'hello': 1}
    """
    first = next((folder / name for name in (FAST, *_PLAIN) if (folder / name).is_file()), None)
    if first is None:
        return None
    beside = folder / _ADDED
    files = (first, beside) if first.name != FAST and beside.is_file() else (first,)
    try:
        digests = [_digest(file) for file in files]
    except OSError:
        return None
    return VocabularyFiles(files, " ".join([first.name, *digests]))


def _digest(file: Path) -> str:
    with open_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fast(text: str, ids: dict[str, int], added: dict[str, Mapping[str, Any]]) -> None:
    """`tokenizer.json`: a vocabulary by token or, for unigram models, in order, and the tokens added to it."""
    parsed = parsed_json(text)
    tokens = parsed["model"].get("vocab") or {}
    _take(tokens if isinstance(tokens, Mapping) else _in_order(str(piece) for piece, _ in tokens), ids)
    for entry in parsed.get("added_tokens") or ():
        ids[str(entry["content"])] = _id(entry["id"])
        added[str(entry["content"])] = {flag: entry.get(flag, default) for flag, default in _FLAGS.items()}


def _map(text: str, ids: dict[str, int], added: dict[str, Mapping[str, Any]]) -> None:
    """`vocab.json`; one that holds a vocabulary for each language belongs to no single tensor."""
    parsed = parsed_json(text)
    if not all(isinstance(value, Mapping) for value in parsed.values()):
        _take(parsed, ids)


def _lines(text: str, ids: dict[str, int], added: dict[str, Mapping[str, Any]]) -> None:
    lines = text.split("\n")
    _take(_in_order(line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])), ids)


def _more(text: str, ids: dict[str, int], added: dict[str, Mapping[str, Any]]) -> None:
    """`added_tokens.json`, which keeps no flags."""
    parsed = parsed_json(text)
    _take(parsed, ids)
    added.update((str(token), _FLAGS) for token in parsed)


def _take(tokens: Mapping[str, Any], ids: dict[str, int]) -> None:
    ids.update((str(token), _id(place)) for token, place in tokens.items())


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is not a token id")
    return value


def _in_order(tokens: Iterable[str]) -> dict[str, int]:
    """Ids by position; of a token that occurs twice, the first."""
    ids: dict[str, int] = {}
    for place, token in enumerate(tokens):
        ids.setdefault(token, place)
    return ids


_READERS = {FAST: _fast, "vocab.json": _map, "vocab.txt": _lines, _ADDED: _more}


def append_tokens(folder: Path, first: int, tokens: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Add tokens at the end of a folder's `tokenizer.json`, and wherever else the folder lists added tokens.

    Args:
        folder: the folder that is being written.
        first: the id of the first new token: one more than the largest so far.
        tokens: each token with its flags.
    """
    entries = [{"id": first + k, "content": token, **_FLAGS, **flags} for k, (token, flags) in enumerate(tokens)]
    parsed = read_json(folder / FAST, LIST_BYTES)
    parsed["added_tokens"] = [*(parsed.get("added_tokens") or ()), *entries]
    write_json(folder / FAST, parsed)
    if (config := folder / _CONFIG).is_file():
        settings = read_json(config, LIST_BYTES)
        if isinstance(listed := settings.get("added_tokens_decoder"), dict):
            listed |= {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in entries}
            write_json(config, settings)
    if (older := folder / _ADDED).is_file():
        write_json(older, {**read_json(older, LIST_BYTES), **{e["content"]: e["id"] for e in entries}})


def write_json(file: Path, parsed: Any) -> None:
    """Write a settings file as its own tools do: two spaces, text as it is."""
    file.write_text(json.dumps(parsed, indent=2, ensure_ascii=False) + "\n", "utf-8")
