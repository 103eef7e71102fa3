"""From rows of data to questions: prompts as promptsource writes them, in Jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from weft.errors import InputError, listed, shown
from weft.evaluation.metrics import EXTRA

BAR = "|||"
"""Stands between a question and its answer, and between answers."""


@dataclass(frozen=True)
class Question:
    """What a model is asked.

    Attributes:
        question: the text it reads.
        choices: the answers to rank.
        label: the position of the right one.
    """

    question: str
    choices: tuple[str, ...]
    label: int


class Asker:
    """Makes questions of rows.

    Args:
        text: a Jinja template: the question, `|||`, the right answer. It may speak of the row's columns, and of
            `answer_choices`, a list.
        choices: a Jinja template: the answers, with `|||` between them.
        where: precedes every message.

    Raises:
        InputError: if the templates are not Jinja, or Jinja is not installed.

    Example:
        >>> asker = Asker("Is {{x}} even? ||| {{answer_choices[label]}}", "no ||| yes")
        >>> asker.ask({"x": 3, "label": 0})
        Question(question='Is 3 even?', choices=('no', 'yes'), label=0)
    """

    def __init__(self, text: str, choices: str, where: str = "") -> None:
        """Compile both templates."""
        try:
            self._jinja = import_module("jinja2")
            sandbox = import_module("jinja2.sandbox")
        except ImportError:
            raise InputError(f"{where}prompts need Jinja, which is not installed", EXTRA) from None
        environment = sandbox.SandboxedEnvironment(undefined=self._jinja.StrictUndefined)
        self._where = where
        try:
            self._text, self._choices = environment.from_string(text), environment.from_string(choices)
        except self._jinja.TemplateError as error:
            raise InputError(f"{where}the prompt is not Jinja: {error}", "mend it in the task's file") from None

    def ask(self, row: Mapping[str, Any], place: str = "the example") -> Question:
        """Make a question of a row.

        Args:
            row: the example.
            place: what it is called in messages.

        Raises:
            InputError: if the row lacks a column, has no label, or the right answer is none of the choices.
        """
        if row.get("label") in (-1, "-1", ""):
            raise InputError(f"{self._where}{place} has no label", "choose another split")
        choices = tuple(part.strip() for part in self._rendered(self._choices, row, place).split(BAR))
        parts = self._rendered(self._text, {**row, "answer_choices": list(choices)}, place).split(BAR)
        if len(parts) != 2:
            what = f"{self._where}{place}: the prompt makes {len(parts) - 1} answers of it, not one"
            raise InputError(what, f"a prompt holds {BAR} once, and the data should not hold it")
        return Question(parts[0].strip(), choices, self._position(parts[1].strip(), choices, place))

    def _position(self, answer: str, choices: Sequence[str], place: str) -> int:
        if answer in choices:
            return choices.index(answer)
        what = f"{self._where}{place}: the right answer, {shown(answer)}, is none of {shown(list(choices))}"
        raise InputError(what, "see whether the data have the labels that the prompt expects")

    def _rendered(self, template: Any, row: Mapping[str, Any], place: str) -> str:
        try:
            return str(template.render(row))
        except (self._jinja.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            columns = listed((name for name in row if name != "answer_choices"), most=12)
            what = f"{self._where}{place} does not fit the prompt: {error}"
            raise InputError(what, f"the columns are {columns}") from None
