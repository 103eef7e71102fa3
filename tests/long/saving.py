"""Puts the models of a case where a recipe can name them: files in every form, dicts of tensors, torch's pickles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.long.cases import Array, Auxiliary, Case, Model, State

FORMS = ("file", "folder", "sharded", "index", "pickle", "sharded-pickle", "numpy", "torch")
CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_safetensors(path: Path, tensors: State) -> None:
    """One file, written from the format's specification."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        offsets = [end, end + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def read_safetensors(path: Path) -> State:
    """One file, read from the format's specification."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    kinds = {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in CODES.items()}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = np.frombuffer(data[8 + size + first : 8 + size + last], kinds[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def as_torch(array: Array) -> Any:
    """A torch tensor with the same bits."""
    import torch

    kind = getattr(torch, array.dtype.name)
    if isinstance(array.dtype.type(0), (np.floating, np.integer, np.bool_)):  # numpy's own, not of ml_dtypes
        return torch.from_numpy(array.copy())
    bits = np.int16 if array.itemsize == 2 else np.uint8
    return torch.from_numpy(np.ascontiguousarray(array).copy().view(bits).reshape(array.shape)).view(kind)


def torch_state(model: Model) -> dict[str, Any]:
    """A state dict, in which tied names are one tensor."""
    made: dict[str, Any] = {}
    for name, array in _under_stored_names(model).items():
        made[name] = as_torch(array)
    for name, first in model.tied.items():
        if name in model.tensors:
            made[model.stored_names.get(name, name)] = made[model.stored_names.get(first, first)]
    return made


def given(model: Model, folder: Path) -> Any:
    """What stands in the recipe for a model: a path, or a dict of tensors."""
    if model.form in ("numpy", "torch"):
        return _numpy_state(model) if model.form == "numpy" else torch_state(model)
    place = folder / model.name
    place.mkdir()
    if "pickle" in model.form:
        return _pickled(model, place)
    tensors = _under_stored_names(model)
    if model.form == "file":
        write_safetensors(place / "weights.safetensors", tensors)
        return str(place / "weights.safetensors")
    if model.form == "folder":
        write_safetensors(place / "model.safetensors", tensors)
        return str(place)
    index = _sharded(tensors, place, "model", ".safetensors", write_safetensors)
    return str(index if model.form == "index" else place)


def _numpy_state(model: Model) -> State:
    state = _under_stored_names(model)
    for name, first in model.tied.items():
        if name in model.tensors:
            state[model.stored_names.get(name, name)] = state[model.stored_names.get(first, first)]
    return state


def _under_stored_names(model: Model) -> State:
    """All that lies in the file: weights and scales."""
    renamed = {model.stored_names.get(name, name): array for name, array in model.tensors.items()}
    return renamed | {f"{model.stored_names.get(n, n)}_scale": scale for n, scale in model.scales.items()}


def _pickled(model: Model, place: Path) -> str:
    import torch

    state = torch_state(model)
    if model.form == "pickle":
        torch.save(state, place / "pytorch_model.bin")
        return str(place)
    _sharded(state, place, "pytorch_model", ".bin", lambda path, part: torch.save(part, path))
    return str(place)


def _sharded(tensors: Mapping[str, Any], place: Path, stem: str, suffix: str, write: Any) -> Path:
    """Three files and an index; tensors are dealt out, so that names are in another order."""
    names: dict[str, str] = {}
    parts = [dict(list(tensors.items())[k::3]) for k in range(3)]
    kept = [part for part in parts if part]
    for k, part in enumerate(kept, 1):
        file = f"{stem}-{k:05}-of-{len(kept):05}{suffix}"
        write(place / file, part)
        names |= dict.fromkeys(part, file)
    index = place / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": names}))
    return index


def prepared(value: Any, folder: Path, numbers: Iterator[int]) -> Any:
    """A parameter with its tensors put where a recipe can name them: lists and maps are gone through."""
    if isinstance(value, Auxiliary):
        if not value.as_file:
            return dict(value.tensors)
        path = folder / f"beside-{next(numbers)}.safetensors"
        write_safetensors(path, value.tensors)
        return str(path)
    if isinstance(value, dict):
        return {key: prepared(item, folder, numbers) for key, item in value.items()}
    return [prepared(item, folder, numbers) for item in value] if isinstance(value, list) else value


def recipe_parts(case: Case, folder: Path) -> dict[str, Any]:
    """The recipe, as a person would write it; the inputs are written to the folder."""
    numbers = iter(range(1000))
    shared: dict[int, Any] = {}

    def once(value: Any) -> Any:
        return shared.setdefault(id(value), prepared(value, folder, numbers))

    rules = [rule.written() for rule in case.rules]
    for rule in rules:
        for place in ("parameters", "before", "after"):
            if isinstance(rule.get(place), Mapping):
                rule[place] = {key: once(value) for key, value in rule[place].items()}
    models = [
        {
            "path": given(model, folder),
            "name": model.name,
            **({"rename": dict(model.rename)} if model.rename else {}),
            **{key: once(value) for key, value in model.own.items()},
        }
        for model in case.models
    ]
    parts: dict[str, Any] = {
        "method": case.method,
        "models": models,
        "parameters": {key: once(value) for key, value in case.parameters.items()},
        "rules": rules,
        "output": dict(case.output),
        "on_missing": case.on_missing,
        "folder": folder,
    }
    for place in ("before", "after"):
        if step := getattr(case, place):
            parts[place] = {key: once(value) for key, value in step.items()}
    return parts | ({"base": given(case.base, folder)} if case.base else {})
