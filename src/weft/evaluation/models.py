"""A model ready to be asked: an encoder with the task's head put on, or a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed
from weft.evaluation.metrics import EXTRA
from weft.evaluation.schema import Headed, ImageClassification, Task
from weft.inspection.running import CannotRunError, Loaded, load

FORMATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Device:
    """Where and how models are run.

    Attributes:
        name: as torch calls it.
        dtype: number format of matrix products; weights stay what they are.
        batch: examples at a time.
    """

    name: str = "cpu"
    dtype: str = "float32"
    batch: int = 32

    def computing(self) -> AbstractContextManager[Any]:
        """Within it, torch computes so, and remembers nothing for gradients."""
        return import_module("torch").inference_mode()  # type: ignore[no-any-return]

    def casting(self) -> AbstractContextManager[Any]:
        """Within it, matrix products have the format."""
        torch = import_module("torch")
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.name.partition(":")[0], getattr(torch, self.dtype))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Model:
    """A model as it was loaded from a folder.

    Attributes:
        path: the folder.
        loaded: model and tokenizer.
        device: where it is run.
    """

    path: Path
    loaded: Loaded
    device: Device

    @property
    def tokenizer(self) -> Any:
        """What makes tokens of text.

        Raises:
            InputError: if the folder holds none.
        """
        if self.loaded.tokenizer is None:
            raise InputError(f"{self.path}: has no tokenizer", "put the base's tokenizer files into the folder")
        return self.loaded.tokenizer

    def check_written(self, missing: tuple[str, ...], wanted: str) -> None:
        """Refuse to run on numbers that nobody trained.

        Raises:
            InputError: naming the tensors that the checkpoint lacks.
        """
        if missing:
            what = f"{self.path}: lacks {listed(missing)}, which would be random numbers"
            raise InputError(what, f"give {wanted}, or mend the checkpoint")


def open_model(path: Path, device: Device, tensors: Mapping[str, Any] | None = None) -> Model:
    """Load a model.

    Args:
        path: a folder that transformers can load.
        device: where to run it.
        tensors: the model's tensors, if they are not what lies in the folder.

    Raises:
        InputError: if torch or transformers are not installed, or cannot load it.
    """
    for package in ("torch", "transformers"):
        try:
            import_module(package)
        except ImportError:
            raise InputError(f"evaluation needs {package}, which is not installed", EXTRA) from None
    if not (path / "config.json").is_file():
        what = f"{path}: {'has no config.json' if path.is_dir() else 'no such folder'}"
        raise InputError(what, "name a model folder; a merge of folders writes one")
    try:
        loaded = load(path, device=device.name, tensors=tensors)
    except CannotRunError as error:
        raise InputError(f"{path}: transformers cannot load it: {error}", "see `weft verify`") from None
    if loaded.misshapen:
        raise InputError(f"{path}: tensors of another shape than its config says: {listed(loaded.misshapen)}")
    return Model(path, loaded, device)


@dataclass(frozen=True)
class Head:
    """What turns a batch, as the tokenizer or the image processor makes it, into scores.

    Attributes:
        scores: from the batch to a number for every example and class.
        classes: how many numbers for each example.
    """

    scores: Callable[[Mapping[str, Any]], Any]
    classes: int


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
        return _own(task, model)
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


def _own(task: Headed, model: Model) -> Head:
    """The head that the model was saved with."""
    kind = type(model.loaded.model).__name__
    if not kind.endswith(("Classification", "RegressionHead")):
        what = f"task {task.name}: {model.path} is a {kind} without a head for the task"
        raise InputError(what, "name the head in the task's file (`head:`), or give --heads")
    model.check_written(model.loaded.missing, "the task a `head`")
    return Head(lambda batch: model.loaded.model(**batch).logits, int(model.loaded.model.config.num_labels))


def _grafted(task: Headed, model: Model, path: Path) -> Head:
    """The head of another model, on this model's encoder."""
    donor = open_model(path, model.device)
    head = _own(task, donor)
    encoder, ours = donor.loaded.model.base_model, model.loaded.model.base_model
    model.check_written(_without_pooler(model, encoder), "a model with the whole encoder")
    own, given = encoder.state_dict(), ours.state_dict()
    misfits = [name for name, tensor in own.items() if name in given and given[name].shape != tensor.shape]
    lacking = [name for name in own if name not in given and not _is_pooler(name)]
    if lacking or misfits:
        what = f"task {task.name}: the head of {path} stands on another encoder than {model.path}'s"
        raise InputError(f"{what}: {listed(lacking or misfits)}", "name the head of a model with the same encoder")
    encoder.load_state_dict({**own, **{name: value for name, value in given.items() if name in own}})
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
    """A linear head from a file, on the pooled states."""
    torch = import_module("torch")
    weight, bias = _weight_and_bias(task, path)
    weight = weight.to(model.device.name, torch.float32)
    bias = None if bias is None else bias.to(model.device.name, torch.float32)
    _check_encoder(task, model)
    embed = _pooling(task, model)

    def scores(batch: Mapping[str, Any]) -> Any:
        states = embed(batch).float()
        if states.shape[-1] != weight.shape[1]:
            what = f"task {task.name}: the head {path} reads {weight.shape[1]} numbers, the model gives"
            raise InputError(f"{what} {states.shape[-1]}", "name a head that was trained on this encoder")
        return torch.nn.functional.linear(states, weight, bias)

    return Head(scores, int(weight.shape[0]))


def _check_encoder(task: Headed, model: Model) -> None:
    missing = [name for name in model.loaded.missing if task.pooling == "pooler" or not _is_pooler(name)]
    prefix = f"{model.loaded.model.base_model_prefix}."
    known = model.loaded.model.base_model.state_dict()
    inside = tuple(name for name in missing if name.removeprefix(prefix) in known)
    model.check_written(inside, "a model with the whole encoder")


def _weight_and_bias(task: Task, path: Path) -> tuple[Any, Any]:
    remedy = "a head is a .safetensors file with `weight` (classes x width) and, if it has one, `bias` (classes)"
    try:
        tensors = import_module("safetensors.torch").load_file(path)
    except FileNotFoundError:
        raise InputError(f"task {task.name}: there is no head {path}", "mend `head:`, or give --heads") from None
    except Exception as error:  # safetensors has an error of its own
        raise InputError(f"task {task.name}: {path} cannot be read: {error}", remedy) from None
    weight, bias = tensors.get("weight"), tensors.get("bias")
    fits = weight is not None and weight.ndim == 2 and (bias is None or list(bias.shape) == [weight.shape[0]])
    if not fits or tensors.keys() - {"weight", "bias"}:
        held = ", ".join(f"{name} {list(value.shape)}" for name, value in sorted(tensors.items()))
        raise InputError(f"task {task.name}: {path} is no linear head; it holds {held or 'nothing'}", remedy)
    return weight, bias


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
