"""Tensors that the base shares between two places, of which an adapter changes one.

While an adapter is trained, only the place that it names is changed: an adapted embedding leaves the output head as it
was, unless the adapter was trained with ensure_weight_tying. Where the two are tensors of their own, the changed one is
therefore no longer shared. Where the base stores a single tensor for both, the result cannot be stored, and is refused
(peft's merge_and_unload changes both, which is not the model that was trained).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.lora import Change
from weft.checkpoints.lora_config import LoraConfig
from weft.checkpoints.plain_files import read_json
from weft.errors import Problem


def kept_together(changes: Mapping[str, Change], config: LoraConfig, base: Checkpoint) -> dict[str, Change]:
    """The changes, made alike for tensors that were trained as one (ensure_weight_tying).

    A name that the base shares with a changed one changes with it. A second copy of a changed tensor, under a name that
    the base does not have, is left out: the base stores the two as one.
    """
    if not config.keeps_ties:
        return dict(changes)
    kept = {name: change for name, change in changes.items() if name in base.tensors or not _twins(name, changes, base)}
    for group in _groups(base):
        changed = next((kept[name] for name in group if name in kept), None)
        if changed:
            kept |= {
                name: replace(changed, spec=replace(changed.spec, name=name)) for name in group if name not in kept
            }
    return kept


def _groups(base: Checkpoint) -> Iterable[list[str]]:
    """The names that share their numbers, by what they share, the earliest name first."""
    groups: dict[str, list[str]] = {}
    for alias, first in base.tied.items():
        groups.setdefault(first, [first]).append(alias)
    return groups.values()


def _twins(name: str, changes: Mapping[str, Change], base: Checkpoint) -> list[str]:
    """Changed tensors of the base that have the shape of this one."""
    shape = changes[name].spec.shape
    return [other for other, change in changes.items() if other in base.tensors and change.spec.shape == shape]


def ties_left(changes: Mapping[str, Change], config: LoraConfig, base: Checkpoint) -> dict[str, str]:
    """For each name that still shares its numbers with an earlier one, that earlier name."""
    left: dict[str, str] = {}
    for group in _groups(base):
        free = group if config.keeps_ties else [name for name in group if name not in changes]
        left |= dict.fromkeys(free[1:], next(iter(free), ""))
    return left


def lost_heads(changes: Mapping[str, Change], config: LoraConfig, base: Checkpoint) -> Iterator[Problem]:
    """Changed embeddings that the base on disk also uses as its output head."""
    model = _model_config(base)
    text = model.get("text_config")
    settings = {**model, **text} if isinstance(text, dict) else model
    if config.keeps_ties or not _is_tied(model):
        return
    shapes = [spec.shape for name, spec in base.tensors.items() if name not in changes]
    shapes += [change.spec.shape for change in changes.values()]
    for name, change in changes.items():
        old = base.tensors.get(name)
        is_table = old is not None and len(old.shape) == 2 and old.shape[0] == settings.get("vocab_size")
        is_trained = change.product is not None or config.is_saved(name.rpartition(".")[0])
        if is_table and is_trained and shapes.count(change.spec.shape) == 1:
            yield Problem(
                f"the adapter changes {name!r}, which {base.label} also uses as its output head; it was trained with "
                "the head unchanged, and one tensor cannot be both",
                "save the base with a head of its own (tie_word_embeddings false), or set ensure_weight_tying to true "
                "in adapter_config.json if the head shall change along, as in peft's merge_and_unload",
            )


def _model_config(base: Checkpoint) -> dict[str, Any]:
    """The base's own configuration, as far as there is one that can be read."""
    folder = base.path if base.path is None or base.path.is_dir() else base.path.parent
    try:
        parsed = read_json(folder / "config.json") if folder else {}
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _is_tied(model: Mapping[str, Any]) -> bool:
    """Whether a configuration says, or does not deny, that a language model's head is its embedding."""
    kinds = model.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    text = model.get("text_config")
    inner = text.get("tie_word_embeddings", True) if isinstance(text, dict) else True
    has_head = "LMHead" in kind or kind.endswith(("LM", "ForConditionalGeneration"))
    return has_head and model.get("tie_word_embeddings", inner) is not False
