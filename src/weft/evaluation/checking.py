"""What can be found wrong with a task before a model is loaded: columns, labels, and the heads it is read with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import Gathering, InputError
from weft.evaluation.data import Examples
from weft.evaluation.heads import check_kind, head_path, head_shape, names_of
from weft.evaluation.models import check_folder
from weft.evaluation.questions import choices_of, prompts_of, right_choices, right_classes, right_numbers
from weft.evaluation.schema import Headed, ImageClassification, MultipleChoice, Regression

_WIDTHS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("albert", "bert", "camembert", "clip_vision_model", "deberta", "deberta-v2", "dinov2", "electra", "gemma",
         "gemma2", "llama", "mistral", "modernbert", "mpnet", "phi", "qwen2", "qwen3", "roberta", "vit", "xlm-roberta"),
        ("hidden_size",),
    ),
    "clip": ("vision_config", "hidden_size"), "distilbert": ("dim",), "gpt2": ("n_embd",), "mt5": ("d_model",),
    "t5": ("d_model",),
}  # fmt: skip
"""Where a config says, by `model_type`, how many numbers a state has; of other kinds it is told when they run."""


@dataclass(frozen=True)
class _Told:
    """What is known of a head without loading it."""

    classes: int
    names: tuple[str, ...] = ()


def check_task(examples: Examples, models: Sequence[Path], heads: Path | None) -> None:
    """See that a task's examples fit together, and fit the heads that they will be asked with.

    Args:
        examples: of the task.
        models: folders of the models that will be asked.
        heads: a folder with a head for each task, if the tasks do not say.

    Raises:
        InputError: with every problem.
    """
    problems = Gathering()
    with problems:
        _check_questions(examples)
    if isinstance(examples.task, Headed):
        with problems:
            examples.values("label")
        for told in dict.fromkeys(_heads(examples.task, models, heads, problems)):
            with problems:
                _check_answers(examples, told)
    problems.tell()


def _check_questions(examples: Examples) -> None:
    if isinstance(examples.task, ImageClassification):
        examples.pictures("image")
    elif isinstance(examples.task, MultipleChoice):
        prompts_of(examples)
        right_choices(examples, choices_of(examples))
    else:
        examples.texts("text")


def _check_answers(examples: Examples, told: _Told) -> None:
    if isinstance(examples.task, Regression):
        right_numbers(examples, told.classes)
    else:
        right_classes(examples, told.classes, told.names)


def _heads(task: Headed, models: Sequence[Path], heads: Path | None, problems: Gathering) -> list[_Told]:
    """Each head that the task is read with: one for all models, or each model's own."""
    found = []
    with problems:
        path = head_path(task, heads)
        if path is not None and path.suffix == ".safetensors":
            classes, width = head_shape(task, path)
            found.append(_Told(classes))
            for model in models:
                with problems:
                    _check_width(task, path, width, model)
        else:
            for place in models if path is None else [path]:
                with problems:
                    check_folder(place)
                    found.append(_own(task, place))
    return found


def _own(task: Headed, path: Path) -> _Told:
    """A model's own head, as its config describes it."""
    config = _config(path)
    for kind in (config.get("architectures") or ())[:1]:
        check_kind(task, path, str(kind))
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(key).isdecimal() for key in named):
        classes = config.get("num_labels", 2)
        return _Told(classes if isinstance(classes, int) else 2)
    return _Told(len(named), names_of(named))


def _check_width(task: Headed, head: Path, width: int, model: Path) -> None:
    given = _width(task, _config(model))
    if given is not None and given != width:
        what = f"task {task.name}: the head {head} reads {width} numbers, the model {model} gives {given}"
        raise InputError(what, "name a head that was trained on this encoder")


def _width(task: Headed, config: Mapping[str, Any]) -> int | None:
    """How many numbers the model gives, where its config says so."""
    kind = str(config.get("model_type"))
    place = _WIDTHS.get(kind, ())
    if task.pooling == "projection":
        place = ("projection_dim",) if kind in ("clip", "clip_vision_model") else ()
    found: Any = config
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    return found if place and isinstance(found, int) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: its config.json cannot be read: {error}", "mend the file") from None
    return parsed if isinstance(parsed, dict) else {}
