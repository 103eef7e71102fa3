"""Which tensors have a row for each token: found from sizes, not from names; there is no table of architectures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.comparing import same_numbers
from weft.checkpoints.plain_files import read_json
from weft.checkpoints.tokens import Vocabulary, VocabularyFiles, find_vocabulary
from weft.errors import InputError
from weft.kernels.dtypes import Kind

_ROUNDED_TO = tuple(2**k for k in range(3, 10))
"""Embeddings are padded to a multiple of one of these, for the hardware's sake."""


@dataclass(frozen=True, eq=False)
class Member:
    """One input: its tensors, and what its folder says about its vocabulary.

    Attributes:
        label: `base`, or `model 'a'`.
        checkpoint: its tensors.
        folder: where its tokenizer may lie other than beside the weights, as with an adapter.
        parsed: vocabularies that were read before, by digest; shared between members.
    """

    label: str
    checkpoint: Checkpoint
    folder: Path | None
    parsed: dict[str, Vocabulary | InputError]

    def __str__(self) -> str:
        return self.label if self.label == self.checkpoint.label else f"{self.label} ({self.checkpoint.label})"

    @cached_property
    def files(self) -> VocabularyFiles | None:
        """Where the vocabulary is written down, if it is."""
        folders = [place for place in (self.folder, self.checkpoint.path) if place and place.is_dir()]
        return next(filter(None, map(find_vocabulary, folders)), None)

    @cached_property
    def _read(self) -> Vocabulary | InputError | None:
        if self.files is None:
            return None
        if self.files.digest not in self.parsed:
            try:
                self.parsed[self.files.digest] = self.files.read()
            except InputError as error:
                self.parsed[self.files.digest] = error
        return self.parsed[self.files.digest]

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Its tokens; None if they cannot be read."""
        return self._read if isinstance(self._read, Vocabulary) and self._read.ids else None

    @property
    def fault(self) -> InputError | None:
        """Why they cannot be read, if a file is damaged."""
        return self._read if isinstance(self._read, InputError) else None

    @cached_property
    def stated(self) -> frozenset[int]:
        """The sizes of vocabulary that the config states."""
        path = self.checkpoint.path
        try:
            config = read_json(path / "config.json") if path and path.is_dir() else {}
        except (OSError, ValueError):
            return frozenset()
        parts = (config, config.get("text_config")) if isinstance(config, dict) else ()
        sizes = (part.get("vocab_size") for part in parts if isinstance(part, dict))
        return frozenset(size for size in sizes if isinstance(size, int) and size > 0)

    @cached_property
    def widths(self) -> frozenset[int]:
        """All sizes of tensors along other axes than the first."""
        return frozenset(size for spec in self.checkpoint.tensors.values() for size in spec.shape[1:])

    def has_vocabulary_of(self, rows: int, thorough: bool) -> bool | None:
        """Whether a tensor of so many rows can have one for each token; None if the folder says nothing.

        Args:
            rows: how many it has.
            thorough: whether to read the tokenizer even if the config states another size.
        """
        if rows in self.stated:
            return True
        if self.stated and not thorough:
            return False
        if self.vocabulary is None:
            return False if self.stated else None
        size = self.vocabulary.size
        return size > 1 and rows in {size, *(-(-size // unit) * unit for unit in _ROUNDED_TO)}


@dataclass(frozen=True)
class Table:
    """A tensor with a row for each token.

    Attributes:
        name: the tensor.
        parts: for each input that has it, by position: under which name, and how many rows.
        is_unclear: whether the number of rows is the only evidence, and other dimensions have that size too.
    """

    name: str
    parts: Mapping[int, tuple[str, int]]
    is_unclear: bool

    @property
    def differs(self) -> bool:
        """Whether the inputs have different numbers of rows."""
        return len({rows for _, rows in self.parts.values()}) > 1

    def completed(self, members: Sequence[Member], tables: Sequence[Table]) -> Table:
        """With the inputs that hold the tensor only under the name of another that it is tied to."""
        parts = dict(self.parts)
        for other in tables:
            lacking = [k for k in other.parts if k not in parts]
            common = [k for k in self.parts if k in other.parts]
            if lacking and common and all(_are_one(members[k].checkpoint, self.name, other.name) for k in common):
                parts |= {k: other.parts[k] for k in lacking}
        return replace(self, parts=parts)


def _are_one(checkpoint: Checkpoint, a: str, b: str) -> bool:

    tied = checkpoint.tied
    return tied.get(a, a) == tied.get(b, b) or same_numbers(checkpoint, a, checkpoint, b)


def tables_of(members: Sequence[Member], guess: bool) -> tuple[Table, ...]:
    """The tensors that have a row for each token.

    A tensor is one of them if in every input that has it, its first dimension is the vocabulary size that the config
    states or that the tokenizer needs.

    Args:
        members: all inputs.
        guess: whether, for inputs that come without config and tokenizer, a first dimension in which they differ from
            the others is taken for their vocabulary, provided that there is one such number only.
    """
    held = [member.checkpoint.tensors for member in members]
    names = dict.fromkeys(name for tensors in held for name in tensors)
    plausible = _plausible(members, guess)
    worth = [name for name in names if plausible({tensors[name].shape for tensors in held if name in tensors})]
    candidates = [candidate for name in worth if (candidate := _candidate(name, members))]
    guessed = [_guessed(k, candidates) if guess else None for k in range(len(members))]
    return tuple(t for t in candidates if _is_table(t, members, guessed))


def _plausible(members: Sequence[Member], guess: bool) -> Callable[[Collection[tuple[int, ...]]], bool]:
    """Whether a tensor of these shapes is worth a closer look; of thousands few are, and a glance must do."""

    @cache
    def fits(rows: int) -> bool:
        verdicts = [member.has_vocabulary_of(rows, thorough=False) for member in members]
        return True in verdicts or (guess and None in verdicts)

    return lambda shapes: len(shapes) > 1 or any(len(shape) in (1, 2) and fits(shape[0]) for shape in shapes)


def _candidate(name: str, members: Sequence[Member]) -> Table | None:
    """A matrix, or a bias, that differs in its first dimension at most."""
    specs = {k: m.checkpoint.tensors[name] for k, m in enumerate(members) if name in m.checkpoint.tensors}
    first = next(iter(specs.values()))
    if not all(_could_be(spec) and spec.shape[1:] == first.shape[1:] for spec in specs.values()):
        return None
    rows = {k: spec.shape[0] for k, spec in specs.items()}
    same = len(set(rows.values())) == 1
    unclear = same and any(size in members[k].widths for k, size in rows.items())
    return Table(name, {k: (name, size) for k, size in rows.items()}, unclear)


def _could_be(spec: TensorSpec) -> bool:
    return len(spec.shape) in (1, 2) and spec.dtype.kind is Kind.FLOAT and spec.size > 0


def _guessed(k: int, candidates: Sequence[Table]) -> int | None:
    """The one first dimension in which matrices of this input differ from the same ones elsewhere."""
    sizes = {table.parts[k][1] for table in candidates if table.differs and k in table.parts}
    return sizes.pop() if len(sizes) == 1 else None


def _is_table(table: Table, members: Sequence[Member], guessed: Sequence[int | None]) -> bool:
    verdicts = list(_verdicts(table, members, guessed))
    return any(verdicts) and False not in verdicts


def _verdicts(table: Table, members: Sequence[Member], guessed: Sequence[int | None]) -> Iterator[bool | None]:
    for k, (_, rows) in table.parts.items():
        known = members[k].has_vocabulary_of(rows, thorough=table.differs)
        yield rows == guessed[k] if known is None and guessed[k] is not None else known
