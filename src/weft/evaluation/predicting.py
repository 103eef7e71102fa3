"""From a model and examples to predictions, in batches of like length, for every kind of task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError, shown
from weft.evaluation.data import Examples
from weft.evaluation.heads import Head, head_for
from weft.evaluation.metrics import Predictions
from weft.evaluation.models import Model
from weft.evaluation.questions import choices_of, prompts_of, right_choices, right_classes, right_numbers
from weft.evaluation.schema import Classification, ImageClassification, LanguageModelling, MultipleChoice, Regression
from weft.inspection.running import lacks_memory
from weft.statistics.examples import positions

Advance = Callable[[int], None]


class NotFiniteError(InputError):
    """A model's scores are not numbers, which says nothing of other models."""


@dataclass(frozen=True)
class Asking:
    """What goes with every question.

    Attributes:
        heads: a folder with a head for each task, if the tasks do not say.
        advance: is told how many examples are done.
    """

    heads: Path | None = None
    advance: Advance = lambda count: None


def predict(model: Model, examples: Examples, asking: Asking) -> Predictions:
    """Ask a model every example of a task.

    Raises:
        InputError: if labels, columns or heads do not fit the model, or a batch does not fit into memory.
    """
    try:
        with model.device.computing():
            return _PREDICT[examples.task.kind](model, examples, asking)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        what = f"{model.path}: on task {examples.task.name} {model.device.name} has not enough memory"
        raise InputError(what, f"give a --batch of less than {model.device.batch}, or a shorter `longest`") from None


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Positions in batches, the longest first, so that little is padding and memory runs out at once if at all.

    Example:
        >>> list(by_length([1, 9, 2, 8], 2))
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _classify(model: Model, examples: Examples, asking: Asking) -> Predictions:
    assert isinstance(examples.task, (Classification, ImageClassification))
    head = head_for(examples.task, model, asking.heads)
    targets = np.array(right_classes(examples, head.classes, head.names))
    softmax = import_module("torch").softmax
    return Predictions(_all_scores(model, examples, head, asking, lambda made: softmax(made, -1)), targets)


def _regress(model: Model, examples: Examples, asking: Asking) -> Predictions:
    assert isinstance(examples.task, Regression)
    head = head_for(examples.task, model, asking.heads)
    targets = np.array(right_numbers(examples, head.classes))
    return Predictions(_all_scores(model, examples, head, asking, lambda made: made[:, 0]), targets)


def _all_scores(
    model: Model, examples: Examples, head: Head, asking: Asking, finish: Callable[[Any], Any]
) -> NDArray[Any]:
    """Of every example, in order."""
    if isinstance(examples.task, ImageClassification):
        batches = _image_batches(model, examples)
    else:
        texts = examples.texts("text")
        batches = _text_batches(model, texts, _longest(model, examples.task.longest))
    rows: list[Any] = [None] * len(examples)
    for places, batch in batches:
        with model.device.casting():
            made = head.scores(batch)
        for place, row in zip(places, finish(made.float()).cpu().numpy(), strict=True):
            rows[place] = row
        asking.advance(len(places))
    scores = np.array(rows, np.float64)
    _check_finite(scores, model, examples)
    return scores


def _check_finite(scores: NDArray[Any], model: Model, examples: Examples) -> None:
    if not np.isfinite(scores).all():
        k = int(np.argwhere(~np.isfinite(scores))[0][0])
        what = f"{model.path}: on task {examples.task.name} its scores of example {k + 1} are not finite"
        raise NotFiniteError(what, "see `weft verify` for what is wrong with it")


def _text_batches(model: Model, texts: list[Any], longest: int) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
    pairs = bool(texts) and isinstance(texts[0], tuple)
    columns = [list(column) for column in zip(*texts, strict=True)] if pairs else [texts]
    encoded = model.tokenizer(*columns, truncation=True, max_length=longest)
    kinds = encoded["token_type_ids"] if "token_type_ids" in encoded and model.takes("token_type_ids") else None
    for places in by_length([len(ids) for ids in encoded["input_ids"]], model.device.batch):
        batch = _padded(model, [encoded["input_ids"][k] for k in places])
        if kinds is not None:
            batch["token_type_ids"] = _filled(model, [kinds[k] for k in places], 0)
        yield places, batch


def _longest(model: Model, asked: int) -> int:
    """Tokens that the model has places for, at most those asked."""
    return min(asked, positions(model.loaded.model))


def _image_batches(model: Model, examples: Examples) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
    pictures = examples.pictures("image")
    processor = _image_processor(model)
    for start in range(0, len(pictures), model.device.batch):
        some = [picture.opened() for picture in pictures[start : start + model.device.batch]]
        made = processor(images=some, return_tensors="pt")
        yield list(range(start, start + len(some))), {"pixel_values": made["pixel_values"].to(model.device.name)}


def _image_processor(model: Model) -> Any:
    try:
        return import_module("transformers").AutoImageProcessor.from_pretrained(model.path, local_files_only=True)
    except (OSError, ValueError) as error:
        what = f"{model.path}: has no image processor: {str(error).splitlines()[0]}"
        raise InputError(what, "put the base's preprocessor_config.json into the folder") from None


# Likelihood


def _read_on(model: Model, examples: Examples, asking: Asking) -> Predictions:
    """Running text, cut into pieces that the model can read; every token of a text is predicted once.

    The first one follows the token that texts begin with, and a piece begins with the last token of the one before it.
    """
    texts = examples.texts("text")
    pieces, owners = _pieces(model, texts, _longest(model, examples.task.longest))
    nats, counts = np.zeros(len(texts)), np.zeros(len(texts))
    for places, sums in _likelihoods(model, pieces, [1] * len(pieces), asking):
        for place, value in zip(places, sums, strict=True):
            nats[owners[place]] -= value
            counts[owners[place]] += len(pieces[place][1]) - 1
    if not counts.sum():
        raise InputError(f"task {examples.task.name}: the texts have no token to predict", "give longer texts")
    _check_finite(nats, model, examples)
    return Predictions(nats, counts, np.array([len(text.encode()) for text in texts]))


Piece = tuple[list[int], list[int]]
"""What an encoder reads, empty for models without one, and what is predicted."""


def _pieces(model: Model, texts: list[str], longest: int) -> tuple[list[Piece], list[int]]:
    _check_writes(model, "language modelling")
    if model.loaded.has_encoder:
        what = f"{model.path}: {type(model.loaded.model).__name__} predicts answers, not running text"
        raise InputError(what, "choose `kind: multiple-choice`, or another model")
    pieces: list[Piece] = []
    owners = []
    for owner, ids in enumerate(model.tokenizer(texts)["input_ids"]):
        begun = _begun(model, ids)
        for start in range(0, len(begun) - 1, max(longest - 1, 1)):
            pieces.append(([], begun[start : start + longest]))
            owners.append(owner)
    return pieces, owners


def _begun(model: Model, ids: Sequence[int]) -> list[int]:
    """A text's tokens after the one that texts begin with: the first token follows something, too."""
    begin, end = (getattr(model.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    first = end if begin is None else begin
    return [*ids] if first is None or list(ids[:1]) == [first] else [first, *ids]


def _check_writes(model: Model, kind: str) -> None:
    if not model.loaded.model.can_generate():
        what = f"{model.path}: {type(model.loaded.model).__name__} is no language model, so {kind} cannot be asked"
        raise InputError(what, "name a model that writes text")
    model.check_written(model.loaded.missing, "a model with its language-modelling head")


def _choose(model: Model, examples: Examples, asking: Asking) -> Predictions:
    _check_writes(model, "multiple choice")
    assert isinstance(examples.task, MultipleChoice)
    prompts, choices = prompts_of(examples), choices_of(examples)
    most = max(map(len, choices))
    targets = np.array(right_choices(examples, choices))
    scores, sizes = np.full((len(examples), most), -np.inf), np.ones((len(examples), most))
    flat = [(k, c) for k, some in enumerate(choices) for c in range(len(some))]
    longest, where = _longest(model, examples.task.longest), f"task {examples.task.name}: {examples.where}"
    made = [_joined(model, prompts[k], choices[k][c], longest, f"{where}: example {k + 1}") for k, c in flat]
    for places, sums in _likelihoods(model, [piece for piece, _ in made], [begin for _, begin in made], asking):
        for place, value in zip(places, sums, strict=True):
            scores[flat[place]] = value
    for k, c in flat:
        sizes[k, c] = len(choices[k][c])
    _check_finite(np.where(np.isneginf(scores), 0.0, scores), model, examples)
    return Predictions(scores, targets, sizes)


def _joined(model: Model, prompt: str, choice: str, longest: int, where: str) -> tuple[Piece, int]:
    """Prompt and choice as tokens, and where the choice begins; too much of a prompt is cut off at its beginning.

    Read together they may be other tokens than read apart. The choice begins where the tokens of both cease to be those
    of the prompt.

    Raises:
        InputError: if nothing of a choice is left to predict, or there is no place for all of it.
    """
    if model.loaded.has_encoder:
        return (model.tokenizer(prompt)["input_ids"][-longest:], model.tokenizer(text_target=choice)["input_ids"]), 0
    space = "" if not prompt or prompt[-1].isspace() or choice[:1].isspace() else " "
    before, whole = _unended(model, prompt), _unended(model, f"{prompt}{space}{choice}")
    if not before:
        before, whole = _begun(model, before), _begun(model, whole)
    apart = (k for k, (one, other) in enumerate(zip_longest(before, whole)) if one != other)
    begin = max(next(apart, len(whole)), 1)
    if not 0 < len(whole) - begin < longest:
        what = f"{where}: the choice {shown(choice)} is {len(whole) - begin} tokens; there is room for 1 to"
        raise InputError(f"{what} {longest - 1}", "mend the data, or raise `longest`, if the model reads as much")
    cut = max(len(whole) - longest, 0)
    return ([], whole[cut:]), begin - cut


def _unended(model: Model, text: str) -> list[int]:
    """A text's tokens, without the one that some tokenizers end every text with."""
    ids: list[int] = model.tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1:] == [getattr(model.tokenizer, "eos_token_id", None)] else ids


def _likelihoods(
    model: Model, pieces: Sequence[Piece], begins: Sequence[int], asking: Asking
) -> Iterator[tuple[list[int], list[float]]]:
    """The sum of the log-likelihoods of each piece's tokens from a place on, in nats."""
    for places in by_length([len(read) + len(ids) for read, ids in pieces], model.device.batch):
        some = [pieces[k] for k in places]
        scores, labels = _next_tokens(model, some)
        rows = []
        for row, ids, k in zip(scores, labels, places, strict=True):
            first = begins[k] - (0 if model.loaded.has_encoder else 1)
            chosen = row[: len(ids)].float().log_softmax(-1).gather(-1, ids.unsqueeze(-1))
            rows.append(float(chosen[first:].cpu().double().sum()))
        yield places, rows
        asking.advance(len(places))


def _next_tokens(model: Model, some: Sequence[Piece]) -> tuple[Any, list[Any]]:
    """Scores of every next token, and of each piece the tokens that came."""
    torch = import_module("torch")
    wanted = [torch.tensor(ids, device=model.device.name) for _, ids in some]
    batch = _padded(model, [read if model.loaded.has_encoder else ids for read, ids in some])
    if model.loaded.has_encoder:
        filled = torch.nn.utils.rnn.pad_sequence(wanted, batch_first=True, padding_value=-100)
        batch = {**batch, "labels": filled}
    with model.device.casting():
        scores = model.loaded.model(**batch).logits
    return scores, wanted if model.loaded.has_encoder else [ids[1:] for ids in wanted]


def _padded(model: Model, some: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Filled up on the right, where a causal model never looks and an encoder is told not to."""
    mask = [[1] * len(each) for each in some]
    return {"input_ids": _filled(model, some, model.filler), "attention_mask": _filled(model, mask, 0)}


def _filled(model: Model, some: Sequence[Sequence[int]], filler: int) -> Any:
    torch = import_module("torch")
    most = max(map(len, some))
    return torch.tensor([[*each, *[filler] * (most - len(each))] for each in some], device=model.device.name)


_PREDICT: Mapping[str, Callable[[Model, Examples, Asking], Predictions]] = {
    "classification": _classify,
    "image-classification": _classify,
    "regression": _regress,
    "language-modelling": _read_on,
    "multiple-choice": _choose,
}


def asked(examples: Examples) -> int:
    """How many steps of progress a task has: examples, or choices of all of them."""
    if isinstance(examples.task, MultipleChoice):
        return sum(map(len, choices_of(examples)))
    return len(examples) if not isinstance(examples.task, LanguageModelling) else 0
