"""Three sound models and a sound recipe, and the tools to spoil them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

Plant = Callable[[Path], object]
Tensors = Mapping[str, np.ndarray]

RECIPE: Mapping[str, Any] = {"method": "linear", "base": "base", "models": ["a", "b"]}
MERGE = ("merge", "recipe.yaml", "-o", "out", "--quiet")
FLOATS = {"embed": (5, 3), "layers.0.weight": (3, 3), "layers.1.weight": (3, 3), "head": (5, 3)}


def nothing(place: Path) -> None:
    """Nothing is wrong with the files."""


@dataclass(frozen=True)
class Mistake:
    """Something that a person does wrong.

    Attributes:
        name: in a few words.
        says: what the message must say, the names of things above all.
        remedy: what it must offer.
        recipe: what the recipe says otherwise, `None` taking a key out; or the text of the whole recipe.
        plant: spoils the files.
        command: what is typed.
        code: the exit code: 2 for what a person can mend, 1 for what went wrong on the way.
        known_early: whether `weft plan` tells it too; what only reading weights can find, it cannot.
    """

    name: str
    says: tuple[str, ...]
    remedy: str
    recipe: Mapping[str, Any] | str = field(default_factory=dict)
    plant: Plant = nothing
    command: tuple[str, ...] = MERGE
    code: int = 2
    known_early: bool = True

    def prepare(self, place: Path) -> None:
        """Write the models and the recipe, with the mistake in it."""
        sound(place)
        self.plant(place)
        if (place / "recipe.yaml").exists():
            return
        (place / "recipe.yaml").write_text(self.recipe if isinstance(self.recipe, str) else written(self.recipe))


def written(changes: Mapping[str, Any]) -> str:
    """A recipe as YAML, of which JSON is a part."""
    return json.dumps({key: value for key, value in {**RECIPE, **changes}.items() if value is not None})


def sound(place: Path) -> None:
    """A base and two fine-tunes."""
    base = tensors(0)
    for k, name in enumerate(("base", "a", "b")):
        tuned = {n: t + k * tensors(k)[n] / 16 if t.dtype == np.float32 else t for n, t in base.items()}
        (place / name).mkdir()
        save_file(tuned, place / name / "model.safetensors", {"format": "pt"})
        (place / name / "config.json").write_text(json.dumps({"model_type": "llama"}))


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    floats = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in FLOATS.items()}
    return {**floats, "bn.num_batches_tracked": np.array(7)}


# --- planting ---------------------------------------------------------------------------------------------------------


def together(*plants: Plant) -> Plant:
    """Several, one after the other."""
    return lambda place: [plant(place) for plant in plants]


def edit(model: str, change: Callable[[dict[str, np.ndarray]], object]) -> Plant:
    """Change the tensors of a model."""

    def plant(place: Path) -> None:
        file = place / model / "model.safetensors"
        held = load_file(file)
        change(held)
        save_file({name: np.array(t, order="C") for name, t in held.items()}, file, {"format": "pt"})

    return plant


def put(model: str, **changed: np.ndarray) -> Plant:
    """Put tensors into a model; dots in names are written as two underscores."""
    return edit(model, lambda held: held.update({name.replace("__", "."): t for name, t in changed.items()}))


def without(model: str, *names: str) -> Plant:
    """Take tensors out of a model."""
    return edit(model, lambda held: [held.pop(name) for name in names])


def renamed(model: str, change: Callable[[str], str]) -> Plant:
    """Call a model's tensors otherwise."""

    def plant(held: dict[str, np.ndarray]) -> None:
        changed = {change(name): t for name, t in held.items()}
        held.clear()
        held.update(changed)

    return edit(model, plant)


def saved(file: str, held: Tensors, **metadata: str) -> Plant:
    """A file of tensors beside the models."""

    def plant(place: Path) -> None:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.array(t, order="C") for name, t in held.items()}, place / file, metadata or None)

    return plant


def bytes_in(file: str, content: bytes) -> Plant:
    """A file with this content."""

    def plant(place: Path) -> None:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)

    return plant


def json_in(file: str, content: object) -> Plant:
    """A JSON file."""
    return bytes_in(file, json.dumps(content).encode())


def removed(file: str) -> Plant:
    """A file is not there."""
    return lambda place: (place / file).unlink()


def pickled(file: str, content: Callable[[], object]) -> Plant:
    """A file that torch saved."""
    return lambda place: torch.save(content(), place / file)


def instead(model: str, plant: Plant) -> Plant:
    """Another file in the place of a model's weights."""
    return together(removed(f"{model}/model.safetensors"), plant)


def header(file: str, entries: Mapping[str, Any], data: int = 12) -> Plant:
    """A safetensors file with a header of our own and so many bytes of data."""
    text = json.dumps(entries).encode()
    return bytes_in(file, struct.pack("<Q", len(text)) + text + bytes(data))


def cut(file: str, by: int) -> Plant:
    """A download that broke off."""
    return lambda place: (place / file).write_bytes((place / file).read_bytes()[:-by])


def sharded(model: str, weight_map: Mapping[str, str] | None = None, **more: Any) -> Plant:
    """A model in one shard with an index, which may lie."""

    def plant(place: Path) -> None:
        shard = "model-00001-of-00001.safetensors"
        (place / model / "model.safetensors").rename(place / model / shard)
        told = dict.fromkeys(load_file(place / model / shard), shard) | dict(weight_map or {})
        index = {"metadata": {}, "weight_map": {name: where for name, where in told.items() if where}, **more}
        (place / model / "model.safetensors.index.json").write_text(json.dumps(index))

    return plant


def adapter(changes: Tensors | None = None, **config: Any) -> Plant:
    """A LoRA adapter of rank 2 for one layer of the base, in the folder `lora`."""
    name = "base_model.model.layers.0.lora_{}.weight"
    a, b = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)
    held = {name.format("A"): a, name.format("B"): b} if changes is None else changes
    given = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "base", **config}
    return together(saved("lora/adapter_model.safetensors", held), json_in("lora/adapter_config.json", given))
