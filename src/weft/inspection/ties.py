"""Weights that one model has under two names: are they one, where the config says so, and there, where it does not?"""

from __future__ import annotations

from collections.abc import Iterator

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.comparing import same_numbers
from weft.errors import MergeError
from weft.inspection.configuration import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, called, is_language_model
from weft.inspection.findings import Finding
from weft.inspection.subject import Subject

_KEY = "tie_word_embeddings"


def ties_kept(subject: Subject) -> Iterator[Finding]:
    """Tied embeddings are equal; an untied output embedding exists."""
    told = _told(subject)
    inputs, outputs = (called(subject.tensors, names) for names in (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS))
    if told is False and inputs and not outputs:
        yield from _headless(subject, inputs)
    if told is not True:
        return
    shared = called(subject.tensors, ["shared.weight"])
    for spec in (*outputs, *(spec for spec in inputs if shared and spec not in shared)):
        twins = [twin for twin in shared or inputs if twin.shape == spec.shape]
        if twins and not any(_equal(subject, spec, twin) for twin in twins):
            what = f"{subject.file_of(spec.name)}: {spec.name!r} differs from {twins[0].name!r}"
            what += f", but config.json says {_KEY}: true"
            yield Finding("error", "tied", what, f"set {_KEY}: false if the two are meant to differ, else remove one")


def _told(subject: Subject) -> bool | None:
    text = subject.config.get("text_config")
    parts = (subject.config, text if isinstance(text, dict) else {})
    return next((part[_KEY] for part in parts if isinstance(part.get(_KEY), bool)), None)


def _headless(subject: Subject, inputs: list[TensorSpec]) -> Iterator[Finding]:
    """A language model that states that its head is its own must have one."""
    rows = {spec.shape[0] for spec in inputs if spec.shape}
    own = {spec.name for spec in inputs}
    candidates = [s for s in subject.tensors.values() if len(s.shape) == 2 and s.shape[0] in rows and s.name not in own]
    if is_language_model(subject.config) and not candidates:
        what = (
            f"{subject.path}: config.json says {_KEY}: false, but there is no output embedding such as lm_head.weight"
        )
        yield Finding(
            "error", "tied", what, f"set {_KEY}: true, or add the tensor: loaders fill it with random numbers"
        )


def _equal(subject: Subject, one: TensorSpec, other: TensorSpec) -> bool:
    if one.dtype != other.dtype:
        return False
    try:
        return same_numbers(subject.holders[one.name], one.name, subject.holders[other.name], other.name)
    except MergeError:
        return True  # a file that cannot be read is the finding of the check that reads everything
