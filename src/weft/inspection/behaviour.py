"""Does the model answer sensibly next to its parents? Only what is plainly degenerate is judged; the rest is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weft.engine.progress import Progress
from weft.errors import InputError, WeftError, listed
from weft.inspection.findings import Finding, Report, Trial
from weft.inspection.parents import Parent, parents_of, recipe_of
from weft.inspection.subject import Subject

if TYPE_CHECKING:
    from weft.inspection.running import Continuation, Loaded, Text

TEXTS = 64
"""Texts that are scored; the rest of a longer file is left aside."""

WIDE = 0.5
"""Nats for each token by which a merge may be worse than the worst of its parents."""


@dataclass(frozen=True)
class Task:
    """What the models are asked to do.

    Attributes:
        prompt: to be continued; None if nothing is.
        texts: to be predicted.
        device: where the models are run, as torch calls it.
    """

    prompt: str | None
    texts: tuple[Text, ...]
    device: str = "cpu"


@dataclass(frozen=True)
class Answer:
    """How one model did.

    Attributes:
        role, path: which model.
        continuation: what it wrote, if it was asked.
        loss: of the texts, if it was asked.
        guessing: what the loss would be if every token were equally likely.
    """

    role: str
    path: Path
    continuation: Continuation | None = None
    loss: float | None = None
    guessing: float = math.inf

    def as_trial(self) -> Trial:
        """What is shown."""
        return Trial(str(self.path), self.role, self.continuation.text if self.continuation else "", self.loss)


def behaves(
    subject: Subject, prompt: str | None, texts: Path | None, progress: Progress, device: str | None = None
) -> Report:
    """Load the model, let it write and predict, and its parents too where they are at hand.

    Args:
        subject: the model.
        prompt: to be continued.
        texts: a file with texts to predict; see `read_texts`.
        progress: is told which model is running.
        device: where to run them, as torch calls it; by default the fastest that is there.

    Raises:
        InputError: for a file that holds no texts, a device that is not there, or if torch or transformers are not
            installed.
    """
    from weft.inspection.running import CannotRunError, OtherKindError, chosen_device

    task = Task(prompt, read_texts(texts) if texts else (), chosen_device(device))
    if subject.folder is None:
        return Report(skipped=("a lone file was not run: only a folder says what model it is",))
    if subject.below:
        return Report(skipped=("a pipeline was not run: it writes no text",))
    progress.phase(f"running {subject.path}", 0)
    try:
        own, findings = _own(subject, subject.folder, task)
        if own is None:
            return Report(tuple(findings), (f"{subject.path} was not run: it would hold random numbers",))
    except OtherKindError as error:
        return Report(skipped=(f"{subject.path} was not run: {error}",))
    except CannotRunError as error:
        what = f"{subject.path}: cannot be run: {error}"
        return Report((Finding("error", "load", what, "compare config.json and tokenizer with the base model's"),))
    parents, skipped = _parents(subject, subject.folder, task, progress)
    judged = (*findings, *judge_text(own, parents), *judge_loss(own, parents))
    return Report(judged, tuple(skipped), tuple(answer.as_trial() for answer in (own, *parents)))


def _own(subject: Subject, folder: Path, task: Task) -> tuple[Answer | None, list[Finding]]:
    """The model's answer, if it is all there, and what came up when it was loaded."""
    from weft.inspection.running import load

    loaded = load(folder, device=task.device)
    whole = not loaded.missing and not loaded.misshapen
    return _answer("output", folder, loaded, task) if whole else None, list(_load_report(subject, loaded))


def _load_report(subject: Subject, loaded: Loaded) -> Iterator[Finding]:
    kind = type(loaded.model).__name__
    if loaded.missing:
        what = f"{subject.path}: {kind} needs {len(loaded.missing)} tensors that are missing: {listed(loaded.missing)}"
        yield Finding("error", "load", what, "they hold random numbers when it is loaded: merge again")
    if loaded.misshapen:
        what = f"{subject.path}: {len(loaded.misshapen)} tensors have not the shape that {kind} expects: "
        yield Finding("error", "load", what + listed(loaded.misshapen), "copy config.json from the right model")
    if loaded.unexpected:
        what = f"{subject.path}: {kind} has no use for {len(loaded.unexpected)} tensors: {listed(loaded.unexpected)}"
        yield Finding("warning", "load", what, "are their names what this architecture calls them?")


def _parents(subject: Subject, folder: Path, task: Task, progress: Progress) -> tuple[list[Answer], list[str]]:
    """The parents' answers, one model in memory at a time; and why some have none."""
    from weft.inspection.running import CannotRunError

    recipe = recipe_of(subject)
    if recipe is None:
        return [], ["no parents were run: the folder holds no recipe that names them"]
    answers: list[Answer] = []
    skipped: list[str] = []
    for parent in parents_of(recipe):
        try:
            answers.append(_of_parent(parent, folder, task, progress))
        except (CannotRunError, WeftError) as error:
            skipped.append(f"parent {parent.role} ({parent.told}) was not run: {str(error).splitlines()[0]}")
    return answers, skipped


def _of_parent(parent: Parent, folder: Path, task: Task, progress: Progress) -> Answer:
    """A parent's answer, with what was added to it when it was merged.

    Args:
        parent: which.
        folder: the output's, whose tokenizer stands in if the parent has none.
        task: what is asked.
        progress: is told.
    """
    from weft.inspection.running import CannotRunError, load

    if parent.path is None or not parent.is_here:
        raise CannotRunError("it is not a model folder here")
    progress.phase(f"running {parent.told}", 0)
    tokenizers = [place for place in (parent.adapter, parent.path, folder) if place]
    loaded = load(parent.path, *tokenizers, device=task.device, tensors=parent.tensors())
    if loaded.missing or loaded.misshapen:
        raise CannotRunError("it would hold random numbers")
    return _answer(parent.role, parent.path, loaded, task)


def _answer(role: str, path: Path, loaded: Loaded, task: Task) -> Answer:
    from weft.inspection.running import continued, loss, uniform

    return Answer(
        role,
        path,
        continued(loaded, task.prompt) if task.prompt is not None else None,
        loss(loaded, task.texts) if task.texts else None,
        uniform(loaded.rows),
    )


def judge_text(own: Answer, parents: Sequence[Answer]) -> Iterator[Finding]:
    """Whether what the model wrote is degenerate: not numbers, no choice made, one token again and again."""
    made = own.continuation
    if made is None:
        return
    where = f"{own.path}: after the prompt"
    if not made.finite:
        yield Finding("error", "generate", f"{where} the scores of tokens are NaN or infinite", _LOOK)
    elif made.level:
        yield Finding("error", "generate", f"{where} all tokens have the same score", _LOOK)
    elif _repeats(made):
        told = [parent for parent in parents if parent.continuation is not None]
        same = [parent.role for parent in told if parent.continuation and _repeats(parent.continuation)]
        what = f"{where} it writes one token, {made.tokens[0]}, {len(made.tokens)} times"
        what += f", as does {listed(same)}" if same else ", which no parent does" if told else ""
        level = "error" if told and not same else "warning"
        yield Finding("error" if level == "error" else "warning", "generate", what, _LOOK)


_LOOK = "weft verify without --generate names damaged tensors; if there are none, merge with smaller weights"


def _repeats(made: Continuation) -> bool:
    return len(made.tokens) > 2 and len(set(made.tokens)) == 1


def judge_loss(own: Answer, parents: Sequence[Answer]) -> Iterator[Finding]:
    """Whether the model predicts the texts much worse than the worst of its parents, or worse than guessing."""
    if own.loss is None:
        return
    where = f"{own.path}: the mean loss is {own.loss:.3f} nats per token"
    losses = {parent.role: parent.loss for parent in parents if parent.loss is not None and math.isfinite(parent.loss)}
    if not math.isfinite(own.loss):
        yield Finding("error", "score", f"{own.path}: the loss is not a number", _LOOK)
    elif losses and own.loss > max(losses.values()) + WIDE:
        worst = max(losses, key=losses.__getitem__)
        what = f"{where}, that of the worst parent ({worst}) {losses[worst]:.3f}"
        yield Finding("warning", "score", what, "merge with smaller weights, or with a method that resolves conflicts")
    elif own.loss > own.guessing + WIDE:
        what = f"{where}; choosing tokens at random would give {own.guessing:.3f}"
        yield Finding("warning", "score", what, "is it the right tokenizer, and are the texts in its language?")


def read_texts(path: Path) -> tuple[Text, ...]:
    """Texts to predict.

    Args:
        path: `.txt`, a text on each line; or `.jsonl`, on each line a string, `{"text": ...}`, or for models with an
            encoder `{"input": ..., "target": ...}`.

    Raises:
        InputError: naming the line that is neither.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}", "give a .txt or .jsonl file in UTF-8") from None
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"{path}: neither .txt nor .jsonl", "give a text on each line (.txt), or JSON (.jsonl)")
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:TEXTS]
    if not filled:
        raise InputError(f"{path}: holds no text", "give a text on each line")
    return tuple(_text(path, number, line) for number, line in filled)


def _text(path: Path, number: int, line: str) -> Text:
    from weft.inspection.running import Text

    if path.suffix == ".txt":
        return Text(line, source=line)
    try:
        parsed = json.loads(line)
    except ValueError:
        parsed = None
    fields = {"text": parsed} if isinstance(parsed, str) else parsed if isinstance(parsed, dict) else {}
    target = fields.get("target", fields.get("text"))
    source = fields.get("input", fields.get("text"))
    if not isinstance(target, str) or not isinstance(source, str):
        remedy = 'write {"text": "..."}, or {"input": "...", "target": "..."}, on each line'
        raise InputError(f"{path}:{number}: holds no text", remedy)
    return Text(target, source)
