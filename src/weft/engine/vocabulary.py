"""Vocabularies that differ by a few rows: which tensors have a row for each token, and which rows they get.

`vocabulary: base` keeps the base's tokens, `pad` the largest input's number of rows, `union` all tokens of all inputs.
Without a base, the first model stands in its place. Under every policy a row that an input lacks is taken from the
first input that has it, the base first, then the models in their order: its task vector is then zero or the owner's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.pipeline import part_of
from weft.checkpoints.plain_files import read_json
from weft.checkpoints.rows import RowMap, Rows
from weft.checkpoints.tokens import Vocabulary, append_tokens, write_json
from weft.engine.tables import Member, Table, tables_of
from weft.engine.tokens_compared import FEW, absent, compared, conflict, unfit
from weft.errors import InputError, Problem, listed
from weft.recipes.resolving import Drop, Merge, Resolver
from weft.recipes.schema import Recipe

_CHOICES = (
    "choose `vocabulary: base` (the base's tokens and rows), `pad` (rows stay where they are; as many as the largest "
    "input has) or `union` (the tokens of all inputs); or add a rule with `use:` for these tensors"
)


@dataclass(frozen=True)
class OutputVocabulary:
    """How the output's vocabulary differs from that of the input that lends config and tokenizer.

    Attributes:
        rows: how many rows there are, if that has changed.
        first: the id of the first new token.
        tokens: the new tokens, with their flags.
        parts: folders of a pipeline's parts whose configs say how many rows there are; empty for the whole model.
    """

    rows: int | None = None
    first: int = 0
    tokens: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    parts: tuple[str, ...] = ("",)

    @property
    def change(self) -> str:
        """What is new, in words; empty if nothing is."""
        said = [] if self.rows is None else [f"{self.rows} rows"]
        if self.tokens:
            some = listed((repr(token) for token, _ in self.tokens), FEW)
            said.append(f"{len(self.tokens)} new tokens from id {self.first} on ({some})")
        return " and ".join(said)

    def write(self, folder: Path) -> None:
        """Say so in the config and the tokenizer that were copied into the output's folder."""
        for config in (folder / part / "config.json" for part in self.parts):
            if self.rows is not None and config.is_file():
                write_json(config, _resized(config, self.rows))
        if self.tokens:
            append_tokens(folder, self.first, self.tokens)


@dataclass(frozen=True)
class Settled:
    """The checkpoints of a merge with vocabularies that fit each other.

    Attributes:
        base: the base, if there is one.
        models: the models.
        notes: what was done and what is doubtful, in words.
        output: what the output's config and tokenizer must say.
        maps: which rows an input now has, by its label and the tensor's name.
        problems: why the rows do not fit each other, if they do not.
        unsettled: the tensors that these problems are about: what else would be said of their shapes is said by them.
    """

    base: Checkpoint | None
    models: list[Checkpoint]
    notes: tuple[str, ...] = ()
    output: OutputVocabulary = OutputVocabulary()
    maps: Mapping[str, Mapping[str, RowMap]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unsettled: frozenset[str] = frozenset()


def settle_vocabularies(
    recipe: Recipe, base: Checkpoint | None, models: Sequence[Checkpoint], folders: Mapping[str, Path]
) -> Settled:
    """Give all inputs rows for the same tokens, as the recipe's policy says.

    What keeps it from that becomes part of the result, to be told with everything else: without a policy, vocabularies
    that differ in size; for `union`, a tokenizer that cannot be read or cannot be added to.

    Args:
        recipe: its policy and its rules.
        base: the base's checkpoint, if there is one.
        models: the models' checkpoints, under common tensor names.
        folders: where the tokenizer of an input may lie other than beside its weights, by the input's label.

    Raises:
        InputError: for parameters and rules of the recipe that mean nothing.
    """
    labels = [f"model {name!r}" for name in recipe.names]
    inputs = [*([("base", base)] if base else []), *zip(labels, models, strict=True)]
    parsed: dict[str, Vocabulary | InputError] = {}
    members = [Member(label, checkpoint, folders.get(label), parsed) for label, checkpoint in inputs]
    tables = tables_of(members, guess=recipe.vocabulary is not None)
    settling = _Settling(recipe, members, tables)
    try:
        if recipe.vocabulary is None:
            settling.check_sizes()
            return Settled(base, list(models), tuple(settling.conflicts()))
        notes = [*settling.doubts()]
        maps, output = settling.settled()
    except InputError as error:
        unsettled = frozenset(table.name for table in tables if table.differs)
        return Settled(base, list(models), problems=error.problems, unsettled=unsettled)
    settled = [Rows(m.checkpoint, new) if new else m.checkpoint for m, new in zip(members, maps, strict=True)]
    by_label = {member.label: new for member, new in zip(members, maps, strict=True)}
    return Settled(settled[0] if base else None, settled[1:] if base else settled, tuple(notes), output, by_label)


def fitted(beside: Checkpoint, maps: Mapping[str, RowMap]) -> Checkpoint:
    """What was measured on a model, such as its Fisher, for the rows that the model now has.

    Args:
        beside: its tensors, with rows for the model's own vocabulary.
        maps: where the model's rows come from, by tensor name. Of rows that another input lends nothing was measured:
            they are zero.
    """
    known = {
        name: RowMap(((beside, name),), np.where(rows.origin == 0, 0, -1), rows.row)
        for name, rows in maps.items()
        if _has_rows_of(beside, name, rows)
    }
    return Rows(beside, known) if known else beside


def _has_rows_of(beside: Checkpoint, name: str, rows: RowMap) -> bool:
    """Whether a tensor beside a model's has the shape that the model's had before its rows were gathered."""
    model, own = rows.sources[0]
    return name in beside.tensors and beside.tensors[name].shape == model.tensors[own].shape


def _resized(config: Path, rows: int) -> dict[str, Any]:
    parsed: dict[str, Any] = read_json(config)
    for part in (parsed, parsed.get("text_config")):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = rows
    return parsed


@dataclass(frozen=True)
class _Slots:
    """What the rows of the output stand for.

    Attributes:
        tokens: the token of each row that has one; None if rows are matched by position.
        least: how many rows there are at least.
    """

    tokens: Mapping[int, str] | None
    least: int = 0

    def rows_of(self, member: Member, rows: int, count: int) -> Array:
        """For each row of the output, which of an input's `rows` belongs there; -1 if none. Shape [count]."""
        own = member.vocabulary
        if self.tokens is None or own is None:
            places = np.arange(count)
        else:
            taken = set(own.ids.values())
            places = np.fromiter((self._place(i, own, taken) for i in range(count)), np.int64, count)
        return np.where(places < rows, places, -1)

    def _place(self, slot: int, own: Vocabulary, taken: set[int]) -> int:
        """A row without a token is matched by position, as far as it has no token there either."""
        token = self.tokens.get(slot) if self.tokens else None
        if token is not None:
            return own.ids.get(token, -1)
        return -1 if slot in taken else slot


class _Settling:
    """The vocabularies of one merge.

    Args:
        recipe: the policy.
        members: all inputs, the reference first.
        tables: the tensors that have a row for each token.
    """

    def __init__(self, recipe: Recipe, members: Sequence[Member], tables: Sequence[Table]) -> None:
        self._policy: Literal["base", "pad", "union"] | None = recipe.vocabulary
        self._members = members
        self._reference = members[0]
        self._tables = tables
        self._recipe = recipe
        self._found: dict[tuple[int, int, int], Array] = {}
        self._resolver = Resolver(recipe)

    def check_sizes(self) -> None:
        """Without a policy: one problem for all tensors that are merged and whose numbers of rows differ."""
        differing = [t for t in self._tables if t.differs]
        merged = [t for t in differing if isinstance(self._resolver.action(t.name), Merge)]
        if merged:
            raise InputError([Problem("; ".join(self._told(merged)), _CHOICES)])

    def _told(self, merged: Sequence[Table]) -> Iterator[str]:
        sizes: dict[int, list[int]] = {}
        for table in merged:
            for k, (_, rows) in table.parts.items():
                sizes.setdefault(k, []).append(rows)
        told = [f"{self._members[k]} has {listed(map(str, dict.fromkeys(rows)))}" for k, rows in sorted(sizes.items())]
        names = listed(repr(table.name) for table in merged)
        yield f"the vocabularies differ in their numbers of rows, in {names}: {', '.join(told)}"
        for member in self._members[1:]:
            yield from compared(self._reference, member)

    def conflicts(self) -> Iterator[str]:
        """Where rows are merged by position: ids that stand for different tokens."""
        for k, member in enumerate(self._members):
            if k and any({0, k} <= table.parts.keys() for table in self._tables):
                yield from conflict(self._reference, member)

    def doubts(self) -> Iterator[str]:
        """What a policy does that a person may not expect."""
        if not self._tables:
            yield f"vocabulary: {self._policy}: no tensor was recognised as having a row for each token"
        elif self._policy == "pad":
            yield from self.conflicts()
        elif self._policy == "base":
            for k, member in enumerate(self._members):
                if k:
                    yield from self._dropped(k, member)
        else:
            yield from self._odd_pieces()

    def _dropped(self, k: int, member: Member) -> Iterator[str]:
        ours, theirs = self._reference.vocabulary, member.vocabulary
        if ours and theirs:
            extra = absent(theirs, ours)
            if extra:
                some = listed(map(repr, extra), FEW)
                yield f"{member.label}: {len(extra)} of its tokens are not in the vocabulary of the base: {some}"
            return
        sizes = [(t.parts[0][1], t.parts[k][1]) for t in self._tables if {0, k} <= t.parts.keys()]
        if any(mine != other for mine, other in sizes):
            unread = " and ".join(str(m) for m in (self._reference, member) if m.vocabulary is None)
            yield (
                f"{member.label}: the vocabulary of {unread} cannot be read; rows are matched by position, "
                f"{sizes[0][0]} in the base with {sizes[0][1]} here"
            )

    def _odd_pieces(self) -> Iterator[str]:
        """Tokens of a model's own vocabulary, as opposed to added ones, are found in text only as they are spelled."""
        pieces = [token for token, flags in self._new.items() if flags is None]
        if pieces:
            yield (
                f"vocabulary: union: {len(pieces)} new tokens are parts of words in a model's own vocabulary; the "
                f"output's tokenizer finds them only as they are spelled: {listed(map(repr, pieces), FEW)}"
            )

    @cached_property
    def _new(self) -> dict[str, Mapping[str, Any] | None]:
        """The tokens that `union` adds, in the order of models and ids, with their flags if they have any."""
        self._check_tokenizers()
        ours = self._reference.vocabulary
        new: dict[str, Mapping[str, Any] | None] = {}
        for member in self._members[1:]:
            if ours and (theirs := member.vocabulary):
                new |= {token: theirs.added.get(token) for token in absent(theirs, ours) if token not in new}
        return new

    def _check_tokenizers(self) -> None:
        """A union needs tokens by name everywhere, and a tokenizer that new ones can be appended to."""
        problems = [unfit(member) for member in self._members if not (member.files and member.files.is_fast)]
        problems += [p for m in self._members if m.fault for p in m.fault.problems]
        ours = self._reference.vocabulary
        if not problems and ours and len(set(ours.ids.values())) != ours.size:
            what = f"vocabulary: union: the ids of {self._reference} have gaps, so that no token can be appended"
            problems.append(Problem(what, "choose `vocabulary: base` or `vocabulary: pad`"))
        if problems:
            raise InputError(problems)

    @cached_property
    def _slots(self) -> _Slots:
        ours = self._reference.vocabulary
        if self._policy == "pad" or ours is None:
            return _Slots(None)
        by_id = {place: token for token, place in ours.ids.items()}
        if self._policy == "base":
            return _Slots(by_id)
        by_id |= dict(enumerate(self._new, ours.size))
        return _Slots(by_id, max(by_id, default=-1) + 1)

    def settled(self) -> tuple[list[dict[str, RowMap]], OutputVocabulary]:
        """For every input the rows of tensors that change, and what that means for the output's config."""
        maps: list[dict[str, RowMap]] = [{} for _ in self._members]
        problems: list[Problem] = []
        for table in self._tables:
            whole = table.completed(self._members, self._tables)
            found = {k: self._gathered(whole, k) for k in table.parts}
            changed = {k: rows for k, rows in found.items() if not _is_unchanged(rows, table.parts[k][1])}
            if table.is_unclear and not isinstance(self._resolver.action(table.name), Merge):
                continue
            problems += self._wrong(table, changed)
            for k, rows in changed.items():
                maps[k][table.name] = rows
        if problems:
            raise InputError(problems)
        return maps, self._output() if self._tables else OutputVocabulary()

    def _count(self, table: Table) -> int:
        """How many rows a tensor has in the output."""
        if self._policy == "pad":
            return max(rows for _, rows in table.parts.values())
        own = table.parts.get(0) or next((t.parts[0] for t in self._tables if 0 in t.parts), None)
        return max(own[1] if own else next(iter(table.parts.values()))[1], self._slots.least)

    def _gathered(self, table: Table, k: int) -> RowMap:
        """The rows of one input: its own, then those of the first input that has them."""
        count = self._count(table)
        order = [k, *(j for j in sorted(table.parts) if j != k)]
        origin, row = np.full(count, -1), np.zeros(count, np.int64)
        for place, j in enumerate(order):
            rows = self._rows_of(j, table.parts[j][1], count)
            here = (origin < 0) & (rows >= 0)
            origin[here], row[here] = place, rows[here]
        return RowMap(tuple((self._members[j].checkpoint, table.parts[j][0]) for j in order), origin, row)

    def _rows_of(self, k: int, rows: int, count: int) -> Array:
        key = (k, rows, count)
        if key not in self._found:
            self._found[key] = self._slots.rows_of(self._members[k], rows, count)
        return self._found[key]

    def _wrong(self, table: Table, changed: Mapping[int, RowMap]) -> Iterator[Problem]:
        """Reasons not to change these rows; a tensor that is dropped may have any."""
        if isinstance(self._resolver.action(table.name), Drop):
            return
        if changed and table.is_unclear:
            rows = next(iter(table.parts.values()))[1]
            what = f"tensor {table.name!r} has {rows} rows, the size of the vocabulary but also of other dimensions"
            remedy = "choose `vocabulary: pad`, which moves no rows, or add a rule with `use:` for this tensor"
            yield Problem(f"{what}: its rows may not belong to tokens", remedy)
        orphans = [i for rows in changed.values() for i in np.flatnonzero(rows.origin < 0).tolist()]
        if orphans:
            orphans = sorted(set(orphans))
            tokens = self._slots.tokens or {}
            some = listed((repr(tokens.get(i, i)) for i in orphans), FEW)
            what = f"tensor {table.name!r}: no input has a row for {len(orphans)} of the output's tokens: {some}"
            yield Problem(what, "add a rule with `use: drop` for it, or choose another `vocabulary:`")

    def _output(self) -> OutputVocabulary:
        first = next((table for table in self._tables if 0 in table.parts), None)
        rows = self._count(first) if first else None
        changed = rows if first and rows != first.parts[0][1] else None
        if self._policy != "union":
            parts = tuple(dict.fromkeys(part_of(table.name) for table in self._tables if table.differs))
            is_pipeline = not isinstance(self._reference.checkpoint.stem, str)
            return OutputVocabulary(changed, parts=parts if is_pipeline else ("",))
        ours = self._reference.vocabulary
        new = tuple((token, flags or {}) for token, flags in self._new.items())
        return OutputVocabulary(changed, ours.size if ours else 0, new)


def _is_unchanged(rows: RowMap, count: int) -> bool:
    return len(rows.row) == count and not rows.origin.any() and bool((rows.row == np.arange(count)).all())
