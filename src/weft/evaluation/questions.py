"""Questions and right answers as examples tell them; no model is needed to know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.errors import InputError, shown
from weft.evaluation.data import Examples
from weft.evaluation.schema import MultipleChoice


def right_classes(examples: Examples, known: int, names: Sequence[str] = ()) -> list[int]:
    """The class of every example, as a position in a head.

    Args:
        examples: of a classification.
        known: how many classes the head tells apart.
        names: of the classes, in the head's order, if it has any.

    Raises:
        InputError: if the head tells none apart, or naming the first label that does not match.
    """
    if known < 2:
        what = f"task {examples.task.name}: the head gives one number, which tells no classes apart"
        raise InputError(what, "choose `kind: regression`, or name the task's head")
    return examples.classes(known, names)


def right_numbers(examples: Examples, known: int) -> list[float]:
    """The number of every example.

    Args:
        examples: of a regression.
        known: how many numbers the head gives.

    Raises:
        InputError: if these are several, or naming the first label that is no number.
    """
    if known != 1:
        what = f"task {examples.task.name}: the head tells {known} classes apart; regression needs one number"
        raise InputError(what, "choose `kind: classification`, or name the task's head")
    return examples.numbers("label")


def prompts_of(examples: Examples) -> list[str]:
    """What precedes the choices of every example.

    Raises:
        InputError: if the prompt asks for a column that is not there, or the question is no text.
    """
    assert isinstance(examples.task, MultipleChoice)
    if not examples.task.prompt:
        return [str(text) for text in examples.texts("question")]
    try:
        return [examples.task.prompt.format(**row) for row in examples.rows]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        what = f"task {examples.task.name}: the prompt asks for {error}, which {examples.where} has no column for"
        raise InputError(what, f"the columns are {', '.join(examples.rows[0])}; write {{{{ for a brace") from None


def choices_of(examples: Examples) -> list[Sequence[str]]:
    """The choices of every example.

    Raises:
        InputError: naming the first example that has none.
    """
    assert isinstance(examples.task, MultipleChoice)
    if examples.task.choices:
        return [examples.task.choices] * len(examples)
    found = examples.values("choices")
    for k, some in enumerate(found):
        if not isinstance(some, (list, tuple)) or len(some) < 2 or not all(isinstance(text, str) for text in some):
            what = f"task {examples.task.name}: {examples.where}: the choices of example {k + 1} are {shown(some)}"
            raise InputError(what, "they should be a list of two texts or more")
    return found


def right_choices(examples: Examples, choices: Sequence[Sequence[str]]) -> list[int]:
    """The position of the right choice of every example.

    Raises:
        InputError: naming the first label that is none.
    """
    return [_right(examples, k, label, choices[k]) for k, label in enumerate(examples.values("label"))]


def _right(examples: Examples, k: int, label: Any, choices: Sequence[str]) -> int:
    """The position of the right choice; the data may also give its text."""
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices):
        return label
    what = f"task {examples.task.name}: {examples.where}: the label of example {k + 1} is {shown(label)}"
    raise InputError(
        f"{what}, but it has {len(choices)} choices", "a label is the position of the right choice, from 0"
    )
