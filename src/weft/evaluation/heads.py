"""A task's head, put onto a model: its own, another model's, or a linear layer in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from weft.errors import InputError, Problem, listed
from weft.evaluation.models import Model, open_model
from weft.evaluation.schema import Headed, ImageClassification, Task
from weft.statistics.loading import read_head, shape_of_head

_Some = TypeVar("_Some")
_ENDINGS = ("ForSequenceClassification", "ForImageClassification")
"""Of the names of architectures that tell what a whole text, or image, is."""


@dataclass(frozen=True)
class Head:
    """What turns a batch, as the tokenizer or the image processor makes it, into scores.

    Attributes:
        scores: from the batch to a number for every example and class.
        classes: how many numbers for each example.
        names: of the classes, in order; empty if nobody named them.
    """

    scores: Callable[[Mapping[str, Any]], Any]
    classes: int
    names: tuple[str, ...] = ()


def head_for(task: Headed, model: Model, heads: Path | None = None) -> Head:
    """The task's head, put onto a model.

    Args:
        task: says which head.
        model: any model with the encoder that the head was trained on.
        heads: a folder with a head for each task, `NAME.safetensors` or a model's folder `NAME`; they go before the
            tasks' own.

    Raises:
        InputError: if the model has no such head, or the head does not fit.
    """
    path = head_path(task, heads)
    if path is None:
        return _own(task, model, model.filler)
    return _linear(task, model, path) if path.suffix == ".safetensors" else _grafted(task, model, path)


def head_path(task: Headed, heads: Path | None) -> Path | None:
    """Where the task's head lies; None if it is each model's own.

    Args:
        task: says which head.
        heads: as in `head_for`.

    Raises:
        InputError: if the folder of heads has none for the task.
    """
    if heads is None:
        return None if task.head is None else task.located(task.head)
    found = [path for path in (heads / f"{task.name}.safetensors", heads / task.name) if path.exists()]
    if not found:
        there = sorted(path.name for path in heads.iterdir()) if heads.is_dir() else []
        remedy = f"{heads} holds {listed(there)}" if there else f"{heads}: no such folder, or nothing in it"
        raise InputError(f"task {task.name}: there is no head {heads / task.name}.safetensors", remedy)
    return found[0]


def _own(task: Headed, model: Model, filler: int) -> Head:
    """The head that the model was saved with."""
    module = model.loaded.model
    kind = type(module).__name__
    check_kind(task, model.path, kind)
    model.check_written(model.loaded.missing, "the task a `head`")
    module.config.pad_token_id = filler  # decoders read the last token before these
    names = names_of(getattr(module.config, "id2label", None) or {})
    return Head(lambda batch: module(**batch).logits, int(module.config.num_labels), names)


def check_kind(task: Task, path: Path, kind: str) -> None:
    """See that a model of an architecture has a head of its own.

    Raises:
        InputError: if it has none.
    """
    if not kind.endswith(_ENDINGS):
        what = f"task {task.name}: {path} is a {kind} without a head for the task"
        raise InputError(what, "name the head in the task's file (`head:`), or give --heads")


def names_of(told: Mapping[Any, Any]) -> tuple[str, ...]:
    """The classes' names, in order, by their numbers in a config; none if nobody named them."""
    names = tuple(str(told[k]) for k in sorted(told, key=int))
    return () if names == tuple(f"LABEL_{k}" for k in range(len(names))) else names


def _grafted(task: Headed, model: Model, path: Path) -> Head:
    """The head of another model, on this model's encoder."""
    donor = open_model(path, model.device)
    head = _own(task, donor, model.filler)
    encoder, ours = donor.loaded.model.base_model, model.loaded.model.base_model
    model.check_written(_without_pooler(model, encoder), "a model with the whole encoder")
    own, given = encoder.state_dict(), ours.state_dict()
    misfits = [name for name, tensor in own.items() if name in given and given[name].shape != tensor.shape]
    lacking = [name for name in own if name not in given and not _is_pooler(name)]
    if lacking or misfits:
        what = f"task {task.name}: the head of {path} stands on another encoder than {model.path}'s"
        raise InputError(f"{what}: {listed(lacking or misfits)}", "name the head of a model with the same encoder")
    shared = {name: value for name, value in given.items() if name in own}
    encoder.load_state_dict({**own, **shared}, assign=True)
    return head


def _without_pooler(model: Model, encoder: Any) -> tuple[str, ...]:
    """What the encoder lacks of what the donor's has."""
    prefix = f"{model.loaded.model.base_model_prefix}."
    names = encoder.state_dict().keys()
    return tuple(name for name in model.loaded.missing if name.removeprefix(prefix) in names and not _is_pooler(name))


def _is_pooler(name: str) -> bool:
    """Whether a tensor belongs to what stands between encoder and head; it comes with the head where it is lacking."""
    return "pooler." in name


def _linear(task: Headed, model: Model, path: Path) -> Head:
    """A linear head from a file, on the pooled states; it is small, and always float32."""
    torch = import_module("torch")
    head = _read(task, path, read_head)
    weight, bias = (None if part is None else part.to(model.device.name) for part in (head.weight, head.bias))
    _check_encoder(task, model)
    embed = _pooling(task, model)

    def scores(batch: Mapping[str, Any]) -> Any:
        states = embed(batch).float()
        if states.shape[-1] != head.weight.shape[1]:
            what = f"task {task.name}: the head {path} reads {head.weight.shape[1]} numbers, the model gives"
            raise InputError(f"{what} {states.shape[-1]}", "name a head that was trained on this encoder")
        with torch.autocast(states.device.type, enabled=False):
            return torch.nn.functional.linear(states, weight, bias)

    return Head(scores, len(head.weight))


def head_shape(task: Task, path: Path) -> tuple[int, int]:
    """Classes and width of a linear head in a file, of which only the beginning is read.

    Raises:
        InputError: if there is no such file, or it holds anything else.
    """
    return _read(task, path, shape_of_head)


def _read(task: Task, path: Path, read: Callable[[Path], _Some]) -> _Some:
    """What is in a head's file, as for statistics."""
    if not path.is_file():
        raise InputError(f"task {task.name}: there is no head {path}", "mend `head:`, or give --heads")
    try:
        return read(path)
    except InputError as error:
        raise InputError(Problem(f"task {task.name}: {p.what}", p.remedy) for p in error.problems) from None


def _check_encoder(task: Headed, model: Model) -> None:
    missing = [name for name in model.loaded.missing if task.pooling == "pooler" or not _is_pooler(name)]
    prefix = f"{model.loaded.model.base_model_prefix}."
    known = model.loaded.model.base_model.state_dict()
    inside = tuple(name for name in missing if name.removeprefix(prefix) in known)
    model.check_written(inside, "a model with the whole encoder")


def _pooling(task: Headed, model: Model) -> Callable[[Mapping[str, Any]], Any]:
    """From a batch to one vector for each example."""
    base = model.loaded.model.base_model
    if isinstance(task, ImageClassification):
        pool = _image_pooling(task, model, base)
        return (lambda batch: import_module("torch").nn.functional.normalize(pool(batch))) if task.normalize else pool
    encoder = base.get_encoder() if model.loaded.has_encoder else base
    if task.pooling == "mean":
        return lambda batch: _mean(encoder(**batch).last_hidden_state, batch["attention_mask"])
    if task.pooling == "cls":
        return lambda batch: encoder(**batch).last_hidden_state[:, 0]
    if task.pooling == "pooler":
        return lambda batch: _given(encoder(**batch), "pooler_output", task, model)
    raise InputError(f"task {task.name}: pooling {task.pooling!r} is for images", "choose mean, cls or pooler")


def _image_pooling(task: ImageClassification, model: Model, base: Any) -> Callable[[Mapping[str, Any]], Any]:
    if task.pooling == "projection":
        if hasattr(base, "get_image_features"):
            return lambda batch: _features(base.get_image_features(**batch))
        return lambda batch: _given(model.loaded.model(**batch), "image_embeds", task, model)
    vision = getattr(base, "vision_model", base)
    if task.pooling == "pooler":
        return lambda batch: _given(vision(**batch), "pooler_output", task, model)
    states: Callable[[Mapping[str, Any]], Any] = lambda batch: vision(**batch).last_hidden_state  # noqa: E731
    return (lambda batch: states(batch)[:, 0]) if task.pooling == "cls" else (lambda batch: states(batch).mean(1))


def _features(made: Any) -> Any:
    """Newer versions of transformers wrap the features up."""
    return made if not hasattr(made, "pooler_output") else made.pooler_output


def _given(made: Any, name: str, task: Headed, model: Model) -> Any:
    value = getattr(made, name, None)
    if value is None:
        what = f"task {task.name}: pooling {task.pooling!r} needs {name}, which {type(model.loaded.model).__name__}"
        raise InputError(f"{what} does not give", "choose another pooling")
    return value


def _mean(states: Any, mask: Any) -> Any:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
