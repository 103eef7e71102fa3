"""Loading a model that data are to be run through: its class, its weights, what prepares its inputs, its head.

Nothing that a model's folder brings is run: a model that needs code of its own is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.hub import fetch, is_hub_id
from weft.checkpoints.opening import expanded, open_checkpoint, open_path
from weft.errors import InputError, listed, nearest
from weft.inspection.running import quiet
from weft.statistics.naming import Naming, trace
from weft.statistics.tensors import read_tensor

if TYPE_CHECKING:
    from torch import Tensor

EXTRA = 'pip install "weft[data]"'
ENCODER = "encoder"


@dataclass(frozen=True)
class Task:
    """A kind of model, by what it predicts.

    Attributes:
        name: what people type.
        auto: the class of transformers that loads such models.
        endings: of the names of their architectures.
        reads: what it is given: `text` or `image`.
    """

    name: str
    auto: str
    endings: tuple[str, ...]
    reads: str = "text"


TASKS = {
    task.name: task
    for task in (
        Task("sequence-classification", "AutoModelForSequenceClassification", ("ForSequenceClassification",)),
        Task("token-classification", "AutoModelForTokenClassification", ("ForTokenClassification",)),
        Task("causal-lm", "AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel")),
        Task("masked-lm", "AutoModelForMaskedLM", ("ForMaskedLM", "WithLMHeadModel")),
        Task("seq2seq-lm", "AutoModelForSeq2SeqLM", ("ForConditionalGeneration", "ForSeq2SeqLM")),
        Task("image-classification", "AutoModelForImageClassification", ("ForImageClassification",), "image"),
        Task(ENCODER, "AutoModel", ("Model",)),
    )
}


@dataclass(frozen=True)
class Head:
    """A linear layer that stands on an encoder.

    Attributes:
        weight: one row for each class.
        bias: one number for each class, if it has one.
        path: where it came from.
    """

    weight: Tensor
    bias: Tensor | None
    path: Path


@dataclass(frozen=True)
class Loaded:
    """A model, ready to be run.

    Attributes:
        module: as transformers has it, in float32 and in evaluation mode.
        task: what it predicts.
        path: its folder.
        label: what the user called it.
        processor: its tokenizer or image processor.
        checkpoint: its tensors as they are stored.
        naming: which of these each parameter is.
        head: what stands on an encoder.
        remarks: what a person should know.
    """

    module: Any
    task: Task
    path: Path
    label: str
    processor: Any
    checkpoint: Checkpoint
    naming: Naming
    head: Head | None
    remarks: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Among how many labels it chooses."""
        return len(self.head.weight) if self.head else int(self.module.config.num_labels)

    @property
    def is_regression(self) -> bool:
        """Whether what it predicts are real numbers."""
        from weft.statistics.families import likelihood_of
        from weft.statistics.likelihoods import Regression

        return self.head is None and isinstance(likelihood_of(self.module), Regression)

    def takes(self, name: str) -> bool:
        """Whether the model has an input of this name: some tokenizers make more than their model reads."""
        return name in inspect.signature(self.module.forward).parameters


def needed(*packages: str) -> tuple[Any, ...]:
    """Libraries that statistics need and merging does not.

    Raises:
        InputError: naming those that are not installed, and how to get them.
    """
    found: dict[str, Any] = {}
    for package in packages:
        try:
            found[package] = import_module(package)
        except ImportError:
            continue
    missing = [package for package in packages if package not in found]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise InputError(f"measuring a model needs {' and '.join(missing)}, which {verb} not installed", EXTRA)
    return tuple(found.values())


def load(model: str, task: str | None = None, head: Path | None = None) -> Loaded:
    """Load a model in float32, on the CPU.

    Args:
        model: its folder, or its id on the Hub, from where it is downloaded.
        task: a name in `TASKS`; None for what its config says.
        head: for an encoder, a file with the weight and the bias of the linear layer that stands on it.

    Raises:
        InputError: for a model that cannot be loaded, lacks weights that its task needs, or brings no tokenizer; for a
            head that does not fit.
    """
    _, transformers = needed("torch", "transformers")
    path = fetch(model).path if is_hub_id(model) else expanded(model)
    if not path.is_dir():
        raise InputError(f"{path}: not a model folder" if path.exists() else f"{path}: no such folder", _WHICH)
    checkpoint = open_path(path)
    try:
        with quiet(transformers):
            return _loaded(transformers, path, model, checkpoint, task, head)
    except BaseException:
        checkpoint.close()
        raise


_WHICH = "name the folder that holds config.json, the weights and the tokenizer"


def _loaded(
    transformers: Any, path: Path, label: str, checkpoint: Checkpoint, task_name: str | None, head_path: Path | None
) -> Loaded:
    config = _config(transformers, path)
    task = _task(config, path, task_name, head_path)
    processor = _processor(transformers, task, path)
    module, missing = _from(transformers, getattr(transformers, task.auto), config, path)
    _check_missing(missing, task, config, path)
    head = read_head(head_path, _width(config)) if head_path else None

    def again(tensors: Mapping[str, Tensor]) -> Any:
        return _from(transformers, type(module), config, path, tensors)[0]

    naming = trace(checkpoint, module, again)
    return Loaded(module, task, path, label, processor, checkpoint, naming, head, tuple(_told(naming, path)))


def _config(transformers: Any, path: Path) -> Any:
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: holds no config.json, which says what model it is", _WHICH)
    try:
        return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers has many kinds of error for a config that it does not know
        if "trust_remote_code" in str(error):
            what = f"{path}: the model needs code of its own, which is not run"
            raise InputError(what, "choose a model that transformers knows by itself") from None
        raise _cannot(path, error) from None


def _task(config: Any, path: Path, asked: str | None, head: Path | None) -> Task:
    if asked is not None and asked not in TASKS:
        raise InputError(f"unknown task {asked!r}", nearest(asked, TASKS) or f"choose one of {', '.join(TASKS)}")
    task = TASKS[asked] if asked else TASKS[ENCODER] if head else _guessed(config)
    if task is None:
        what = f"{path}: config.json says architectures: {getattr(config, 'architectures', None)}"
        raise InputError(f"{what}, which tells no task", f"choose one with --task: {', '.join(TASKS)}")
    if task.name == ENCODER and head is None:
        what = f"{path}: the model is an encoder without a head, so that it predicts nothing"
        raise InputError(what, "give its linear head with --head FILE, or choose another --task")
    if task.name != ENCODER and head is not None:
        raise InputError(f"--head is for an encoder, not for --task {task.name}", "leave out one of the two")
    return task


def _guessed(config: Any) -> Task | None:
    """The task with the longest ending that an architecture in the config has."""
    found = [
        (len(ending), task)
        for name in getattr(config, "architectures", None) or ()
        for task in TASKS.values()
        for ending in task.endings
        if str(name).endswith(ending)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _from(
    transformers: Any, kind: Any, config: Any, path: Path, tensors: Mapping[str, Tensor] | None = None
) -> tuple[Any, list[str]]:
    """A module, and the parameters that its tensors do not tell; these are 0.

    Args:
        transformers: the library.
        kind: a class of models, or one that finds the class.
        config: the model's.
        path: its folder.
        tensors: what to load instead of what lies in the folder.
    """
    import torch

    precision = "dtype" if int(transformers.__version__.split(".")[0]) > 4 else "torch_dtype"
    options = {"config": config, "local_files_only": True, "ignore_mismatched_sizes": True, precision: torch.float32}
    place = path if tensors is None else None
    state = {} if tensors is None else {"state_dict": dict(tensors)}
    try:
        made, told = kind.from_pretrained(place, output_loading_info=True, **options, **state)
    except Exception as error:  # whatever a model's class raises is an answer to "does it load?"
        raise _cannot(path, error, f" its weights as {kind.__name__}") from None
    if told["mismatched_keys"]:
        name, *shapes = sorted(map(_parts, told["mismatched_keys"]))[0]
        what = f"{path}: tensor {name!r} has another shape than config.json asks for: {' and '.join(shapes)}"
        raise InputError(what, "mend config.json, or save the model again")
    missing = sorted(told["missing_keys"])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name in told["missing_keys"]:
                parameter.zero_()
    return made.eval(), missing


def _parts(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(p if isinstance(p, str) else str(list(p)) for p in entry)


def _check_missing(missing: list[str], task: Task, config: Any, path: Path) -> None:
    """See that all weights are there that the task needs; an encoder's pooler is not used."""
    if not missing or task.name == ENCODER:
        return
    what = f"{path}: has no numbers for {listed(map(repr, missing))}, which {task.name} needs"
    remedy = f"its config.json says architectures: {config.architectures}; choose the --task that it was trained for"
    raise InputError(what, f"{remedy}, or name the fine-tuned model")


def _processor(transformers: Any, task: Task, path: Path) -> Any:
    kind = "AutoTokenizer" if task.reads == "text" else "AutoImageProcessor"
    word = "tokenizer" if task.reads == "text" else "image processor (preprocessor_config.json)"
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    places = names if task.reads == "text" else ("preprocessor_config.json",)
    if not any((path / name).is_file() for name in places):
        raise InputError(f"{path}: has no {word}", "copy that of the model which it was fine-tuned from")
    try:
        made = getattr(transformers, kind).from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise _cannot(path, error, f" its {word}") from None
    if task.name == "masked-lm" and made.mask_token_id is None:
        raise InputError(f"{path}: its tokenizer has no mask token", "choose the --task that the model was trained for")
    return made


def read_head(path: Path, width: int | None = None) -> Head:
    """The linear layer in a file: one matrix, and a vector if it has a bias, whatever they are called.

    Args:
        path: a file of tensors.
        width: the size of the encoder's output, if it is known.

    Raises:
        InputError: for a file that holds anything else, or a matrix of another width.
    """
    with closing(open_checkpoint(str(path))) as checkpoint:
        matrix, vector = _layer(checkpoint, path)
        if width is not None and matrix.shape[1] != width:
            what = f"{path}: the head's matrix {matrix.name!r} has shape {list(matrix.shape)}"
            raise InputError(f"{what}, but the encoder's output has {width} numbers", "give the head of this encoder")
        weight = read_tensor(checkpoint, matrix.name).float()
        return Head(weight, read_tensor(checkpoint, vector.name).float() if vector else None, path)


def shape_of_head(path: Path) -> tuple[int, int]:
    """Classes and width of the linear layer in a file, of which no number is read.

    Args:
        path: a file of tensors.

    Raises:
        InputError: for a file that holds anything else.
    """
    with closing(open_checkpoint(str(path))) as checkpoint:
        rows, columns = _layer(checkpoint, path)[0].shape
        return rows, columns


def _layer(checkpoint: Checkpoint, path: Path) -> tuple[TensorSpec, TensorSpec | None]:
    """The matrix, and the vector if there is one."""
    matrices = [spec for spec in checkpoint.tensors.values() if len(spec.shape) == 2]
    vectors = [spec for spec in checkpoint.tensors.values() if len(spec.shape) == 1]
    if len(matrices) != 1 or len(vectors) > 1 or len(checkpoint.tensors) > 2:
        held = listed(f"{spec.name} {list(spec.shape)}" for spec in checkpoint.tensors.values()) or "nothing"
        remedy = "save the head's weight [classes, width] and its bias [classes] in a file of their own"
        raise InputError(f"{path}: a head is one matrix and at most one vector, but it holds {held}", remedy)
    if vectors and vectors[0].shape[0] != matrices[0].shape[0]:
        what = f"{path}: the head's matrix has {matrices[0].shape[0]} rows but its bias {vectors[0].shape[0]} numbers"
        raise InputError(what, "give matrix and bias of one layer")
    return matrices[0], vectors[0] if vectors else None


def _width(config: Any) -> int:
    return int(config.hidden_size)


def _told(naming: Naming, path: Path) -> Iterator[str]:
    if naming.homeless:
        names = listed(map(repr, naming.homeless))
        yield f"parameters without a tensor in {path}, whose statistics are left out: {names}"
    if naming.idle:
        yield f"tensors of {path} that are no parameter of the loaded model and have no statistics: " + listed(
            map(repr, naming.idle)
        )


def _cannot(path: Path, error: Exception, what: str = "") -> InputError:
    lines = str(error).strip().splitlines() or [""]
    told = f"{path}: transformers cannot load{what or ' it'}: {type(error).__name__}: {lines[0]}"
    return InputError(told, "check config.json and the tokenizer's files, or choose another --task")
