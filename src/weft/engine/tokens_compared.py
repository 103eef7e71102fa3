"""How the tokens of two inputs differ, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from weft.checkpoints.tokens import Vocabulary
from weft.engine.tables import Member
from weft.errors import Problem, listed

FEW = 4
"""How many tokens are named."""


def absent(tokens: Vocabulary, others: Vocabulary) -> list[str]:
    """The tokens of one vocabulary that the other does not have."""
    return [token for token in tokens.ids if token not in others.ids]


def unfit(member: Member) -> Problem:
    """An input whose tokenizer cannot take part in a union."""
    has = f"has only {member.files.files[0].name}" if member.files else "has no tokenizer that can be read"
    what = f"vocabulary: union needs the tokenizer.json of every input, but {member} {has}"
    return Problem(what, "save its fast tokenizer beside it, or choose `vocabulary: base` or `vocabulary: pad`")


def compared(reference: Member, member: Member) -> Iterator[str]:
    """Which tokens two inputs do not share."""
    ours, theirs = reference.vocabulary, member.vocabulary
    if ours is None or theirs is None:
        unread = " and ".join(str(m) for m in (reference, member) if m.vocabulary is None)
        yield f"the tokens of {member.label} cannot be compared: no vocabulary can be read of {unread}"
        return
    yield _only(member.label, absent(theirs, ours))
    yield _only(reference.label, absent(ours, theirs), f", not in {member.label}")
    moved = [f"{t!r} ({ours.ids[t]}, {i})" for t, i in theirs.ids.items() if ours.ids.get(t, i) != i]
    if moved:
        yield f"{len(moved)} tokens have other ids in {member.label}: {listed(moved, FEW)}"


def _only(label: str, tokens: Sequence[str], beside: str = "") -> str:
    count = "no token is" if not tokens else "1 token is" if len(tokens) == 1 else f"{len(tokens)} tokens are"
    return f"{count} only in {label}{beside}{_examples(tokens)}"


def _examples(tokens: Iterable[str]) -> str:
    some = listed(map(repr, tokens), FEW)
    return f": {some}" if some else ""


def conflict(reference: Member, member: Member) -> Iterator[str]:
    """A warning, if the same row stands for different tokens."""
    if reference.files and member.files and reference.files.digest == member.files.digest:
        return
    ours, theirs = reference.vocabulary, member.vocabulary
    if ours and theirs:
        here = {place: token for token, place in theirs.ids.items()}
        odd = [(i, t, here[i]) for t, i in ours.ids.items() if i in here and here[i] != t and theirs.ids.get(t) != i]
        if odd:
            some = listed((f"{i} is {a!r} in {reference.label} but {b!r} in {member.label}" for i, a, b in odd), 3)
            yield (
                f"{len(odd)} rows of the vocabulary belong to different tokens and are merged with each other: {some}; "
                "`vocabulary: base` or `vocabulary: union` matches tokens by name"
            )
