"""From rows of data to the batches that a model is given: encoded, sorted by length, padded.

Examples are sorted so that those of a batch are about as long as each other, the longest first, so that a batch that
does not fit into memory is the first. An example's number is its place in this order, which depends on the data
and the tokenizer, but not on how many examples make a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weft.engine.progress import Progress
from weft.errors import InputError, Problem, nearest, shown
from weft.statistics.data import Table
from weft.statistics.loading import Loaded

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_LENGTH = 512
"""Tokens of an example at most, unless asked for otherwise: activations grow with it."""
IGNORED = -100
"""The label of a token that is not predicted."""
MASKED = 0.15
"""The share of tokens that a masked language model is asked for, as in its training."""
_SPECIAL, _WORDS = "special_tokens_mask", "word_ids"
_TOLD = 5
"""Rows with something wrong in them that are told one by one."""
_CHUNK = 256
"""Rows that are read at once."""
_ENDLESS = 1 << 30
"""Tokens that no text has."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """All examples, in the order in which they are measured.

    Attributes:
        table: their rows.
        loaded: the model that they are for.
        order: for each example the number of its row.
        lengths: for each example its number of tokens; 1 for an image.
        longest: tokens at most; what is beyond is cut off.
        cut: how many examples that concerns.
        sha256: of what the model is given of them.
        labelled: whether the data's own labels are part of it.
        seed: of which tokens are masked.
    """

    table: Table
    loaded: Loaded
    order: tuple[int, ...]
    lengths: tuple[int, ...]
    longest: int
    cut: int
    sha256: str
    labelled: bool
    seed: int

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, first: int, last: int) -> dict[str, Tensor]:
        """The examples `first` to `last`, without `last`, padded to one length."""
        return _padded([self._encoded(k) for k in range(first, last)], self.loaded.processor)

    def _encoded(self, number: int) -> dict[str, Any]:
        """What the model is given, with the labels: the data's own, or which tokens have one."""
        row = self.table.rows[self.order[number]]
        encoded = encode(self.loaded, self.table, row, self.longest)
        special, words = encoded.pop(_SPECIAL, ()), encoded.pop(_WORDS, None)
        if self.loaded.task.name == "masked-lm":
            return _masked(encoded, special, self.loaded.processor.mask_token_id, (self.seed, number))
        label = _label(self.loaded, self.table, row) if self.labelled else None
        if self.loaded.task.name == "token-classification":
            plain = [IGNORED if one else 0 for one in special]
            return {**encoded, "labels": plain if label is None else _aligned(label, words)}
        return encoded if label is None else {**encoded, "labels": label}


def prepare(
    table: Table, loaded: Loaded, *, max_length: int | None, labelled: bool, seed: int, progress: Progress
) -> Examples:
    """Read all rows once: count their tokens, hash what the model will see, and look for what is wrong.

    Args:
        table: the rows.
        loaded: the model.
        max_length: tokens of an example at most; None for what the model can take, but 512 at most.
        labelled: whether the data's own labels are needed.
        seed: of which tokens are masked.
        progress: is told how far it is, in rows.

    Raises:
        InputError: for empty texts, labels that the model does not know; naming the rows.
    """
    longest = allowed_length(loaded, max_length)
    progress.phase("reading the data", len(table))
    digest = hashlib.sha256()
    lengths: list[int] = []
    problems: list[Problem] = []
    check = labelled or table.columns.label is not None
    for number, row in enumerate(_rows(table)):
        try:
            lengths.append(_length(loaded, table, row))
            label = _label(loaded, table, row) if check else None
        except InputError as error:
            problems += [Problem(f"{table.label}, row {number + 1}: {p.what}", p.remedy) for p in error.problems]
            if len(problems) >= _TOLD:
                break
            continue
        digest.update(_told(table, row, label if labelled else None))
        progress.advance(1)
    if problems:
        raise InputError(problems)
    order = sorted(range(len(lengths)), key=lambda k: (-min(lengths[k], longest), k))
    return Examples(
        table, loaded, tuple(order), tuple(min(lengths[k], longest) for k in order), longest,
        sum(length > longest for length in lengths), digest.hexdigest(), labelled, seed,
    )  # fmt: skip


def _rows(table: Table) -> Iterator[Row]:
    for start in range(0, len(table), _CHUNK):
        chunk = table.rows[start : start + _CHUNK]
        for k in range(len(next(iter(chunk.values())))):
            yield {name: column[k] for name, column in chunk.items()}


def allowed_length(loaded: Loaded, asked: int | None) -> int:
    """How many tokens an example may have.

    Raises:
        InputError: for more than the model has positions for, or less than one.
    """
    most = _most(loaded)
    if asked is None:
        return min(most, DEFAULT_LENGTH)
    if not 0 < asked <= most:
        what = f"--max-length {asked}: the model takes between 1 and {most} tokens"
        raise InputError(what, "choose another length, or leave it out")
    return asked


def _most(loaded: Loaded) -> int:
    """What the tokenizer and the position embeddings allow."""
    told = getattr(loaded.processor, "model_max_length", None)
    return min(told if isinstance(told, int) and told > 0 else _ENDLESS, positions(loaded.module))


def positions(module: Any) -> int:
    """How many tokens a model has positions for; very many if it counts none.

    Args:
        module: as transformers has it.
    """
    told = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    most = told if isinstance(told, int) and told > 0 else _ENDLESS
    for name, layer in module.named_modules():
        if name.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None:
            most = min(most, layer.num_embeddings - layer.padding_idx - 1)  # positions begin after that of padding
    return most


def encode(loaded: Loaded, table: Table, row: Row, longest: int | None) -> dict[str, Any]:
    """What the model is given of one row: for each name a list of numbers, or an array of pixels.

    Args:
        loaded: the model.
        table: says which column holds what.
        row: the row.
        longest: where to cut; None for nowhere.

    Raises:
        InputError: for what is empty or of another kind.
    """
    columns = table.columns
    if loaded.task.reads == "image":
        image = _image(row, columns.image or "")
        return {"pixel_values": loaded.processor(images=image, return_tensors="pt")["pixel_values"][0]}
    text = _text(row, columns.text or "", words=loaded.task.name == "token-classification")
    pair = _text(row, columns.text_pair) if columns.text_pair else None
    encoded = _tokens(loaded, text, pair, longest)
    if columns.target and loaded.task.name == "seq2seq-lm":
        target = loaded.processor(
            text_target=_text(row, columns.target), truncation=longest is not None, max_length=longest, verbose=False
        )
        encoded["labels"] = list(target["input_ids"])
    return encoded


def _tokens(loaded: Loaded, text: Any, pair: str | None, longest: int | None) -> dict[str, Any]:
    made = loaded.processor(
        text, pair, truncation=longest is not None, max_length=longest, is_split_into_words=isinstance(text, list),
        return_special_tokens_mask=True, verbose=False,
    )  # fmt: skip
    if not made["input_ids"]:
        raise InputError(f"the tokenizer makes no token of {shown(text)}", "leave out rows without text")
    rows = int(loaded.module.get_input_embeddings().weight.shape[0])
    if max(made["input_ids"]) >= rows:
        what = f"the tokenizer makes token {max(made['input_ids'])}, but the model has {rows}"
        raise InputError(what, "use the tokenizer that the model was trained with")
    wanted = ("input_ids", "token_type_ids") if loaded.takes("token_type_ids") else ("input_ids",)
    encoded = {key: list(made[key]) for key in (*wanted, _SPECIAL) if key in made}
    if loaded.task.name == "token-classification" and isinstance(text, list):
        encoded[_WORDS] = made.word_ids()
    return encoded


def _text(row: Row, column: str, *, words: bool = False) -> Any:
    found = row[column]
    if words and isinstance(found, (list, tuple)) and found and all(isinstance(word, str) for word in found):
        return list(found)
    if not isinstance(found, str):
        kind = "is empty" if found is None or found == [] else f"holds {shown(found)}, not text"
        raise InputError(f"column {column!r} {kind}", "leave out such rows, or name another column")
    if not found.strip():
        raise InputError(f"column {column!r} is empty", "leave out rows without text")
    return found


def _image(row: Row, column: str) -> Any:
    image = row[column]
    if not hasattr(image, "convert"):
        kind = "is empty" if image is None else f"holds {shown(image)}, not an image"
        raise InputError(f"column {column!r} {kind}", "name the column of images with --image")
    return image.convert("RGB")


def _length(loaded: Loaded, table: Table, row: Row) -> int:
    if loaded.task.reads == "image":  # all come out of the processor with one size
        _image(row, table.columns.image or "")
        return 1
    encoded = encode(loaded, table, row, None)
    return max(len(encoded["input_ids"]), len(encoded.get("labels", ())))


def _label(loaded: Loaded, table: Table, row: Row) -> Any:
    """The class of a row as the model numbers it; a list for tokens; None if there is no column of labels.

    Raises:
        InputError: for one that the model does not know.
    """
    column = table.columns.label
    if column is None or loaded.task.name in ("causal-lm", "masked-lm", "seq2seq-lm"):
        return None
    found = row[column]
    if loaded.task.name == "token-classification":
        if not isinstance(found, (list, tuple)):
            raise InputError(
                f"column {column!r} holds {shown(found)}, not a list of labels", "name another with --label"
            )
        return [_number(loaded, table, column, one) for one in found]
    return _number(loaded, table, column, found)


def _number(loaded: Loaded, table: Table, column: str, found: Any) -> int | float:
    if loaded.is_regression and isinstance(found, (int, float)):
        return float(found)
    known = {} if loaded.head else dict(loaded.module.config.label2id or {})
    names = _class_names(table.rows.features[column])
    if isinstance(found, int) and names and found >= 0 and set(names) <= known.keys():
        found = names[found]  # data and model may have one set of classes in two orders
    if isinstance(found, str):
        if found in known:
            return int(known[found])
        remedy = nearest(found, known) or f"the model knows: {', '.join(map(str, list(known)[:10])) or 'numbers only'}"
        raise InputError(f"column {column!r} holds the label {found!r}, which the model does not know", remedy)
    whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
    if not whole or not (0 <= int(found) < loaded.classes or int(found) == IGNORED):
        where = str(loaded.head.path) if loaded.head else loaded.label
        what = f"column {column!r} holds the label {shown(found)}, but {where} has {loaded.classes} classes"
        raise InputError(f"{what}, 0 to {loaded.classes - 1}", "give the model, or the head, of this task")
    return int(found)


def _class_names(feature: Any) -> list[str]:
    inner = getattr(feature, "feature", feature)
    return list(getattr(inner, "names", None) or ())


def _aligned(labels: Sequence[int], words: Sequence[int | None] | None) -> list[int]:
    """The label of each word at its first token."""
    if words is None:
        what = "labels of tokens belong to words, but the text is not given as a list of words"
        raise InputError(what, "name a column of words with --text, or measure with --labels sampled")
    made = []
    before: int | None = None
    for word in words:
        made.append(IGNORED if word is None or word == before or word >= len(labels) else labels[word])
        before = word
    return made


def _told(table: Table, row: Row, label: Any) -> bytes:
    """A row as it is hashed: in one form, whatever file it came from."""
    parts = [_canonical(row[name]) for use, name in table.columns if use != "label"]
    return json.dumps([*parts, label]).encode()


def _canonical(value: Any) -> Any:
    if hasattr(value, "tobytes") and hasattr(value, "mode"):
        return [value.mode, list(value.size), hashlib.sha256(value.tobytes()).hexdigest()]
    return value


def _masked(encoded: dict[str, Any], special: Sequence[int], mask: int, numbers: tuple[int, int]) -> dict[str, Any]:
    """Some tokens replaced by the mask, and at least one; they are what is predicted.

    Args:
        encoded: one example.
        special: which tokens are the tokenizer's own.
        mask: the token that stands for what is masked.
        numbers: the seed and the example's number, on which the choice depends and on nothing else.
    """
    import numpy as np

    tokens = encoded["input_ids"]
    stream = np.random.Philox(key=np.array(numbers, np.uint64), counter=np.array([0, 0, 1, 0], np.uint64))
    draws = np.random.Generator(stream).random(len(tokens))
    draws[np.array(special, bool)] = 1.0
    chosen = (draws < MASKED) | ((draws == draws.min()) & (draws < 1.0))
    made = {**encoded, "input_ids": [mask if hit else token for hit, token in zip(chosen, tokens)]}
    return {**made, "labels": [token if hit else IGNORED for hit, token in zip(chosen, tokens)]}


def _padded(encoded: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """A batch: lists are filled up on the right to the longest, with a mask that says what is filling."""
    import torch

    padding = {"input_ids": getattr(processor, "pad_token_id", None) or 0, "labels": IGNORED}
    made: dict[str, Tensor] = {}
    for name in encoded[0]:
        values = [one[name] for one in encoded]
        if isinstance(values[0], list):
            width = max(map(len, values))
            made[name] = torch.tensor([[*v, *[padding.get(name, 0)] * (width - len(v))] for v in values])
        else:
            made[name] = torch.stack([torch.as_tensor(v) for v in values])
        if name == "input_ids":
            made["attention_mask"] = torch.tensor([[1] * len(v) + [0] * (made[name].shape[1] - len(v)) for v in values])
    return made
