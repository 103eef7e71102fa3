"""A model ready to be asked, and where and how it is run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed
from weft.evaluation.metrics import EXTRA
from weft.inspection.running import CannotRunError, Loaded, load

FORMATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Device:
    """Where and how models are run.

    Attributes:
        name: as torch calls it.
        dtype: number format of matrix products. For float32, weights are turned into it; else they stay what they are.
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

    @property
    def filler(self) -> int:
        """The token that shorter texts are filled up with: the model's own, since some models look for it."""
        config, tokenizer = self.loaded.model.config, self.loaded.tokenizer
        told = [getattr(config, "pad_token_id", None)]
        told += [getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id")]
        return next((token for token in told if isinstance(token, int) and token >= 0), 0)

    def takes(self, name: str) -> bool:
        """Whether the model has an input of this name: some tokenizers make more than their model reads."""
        return name in inspect.signature(self.loaded.model.base_model.forward).parameters

    def check_written(self, missing: tuple[str, ...], wanted: str) -> None:
        """Refuse to run on numbers that nobody trained.

        Raises:
            InputError: naming the tensors that the checkpoint lacks.
        """
        if missing:
            what = f"{self.path}: lacks {listed(missing)}, which would be random numbers"
            raise InputError(what, f"give {wanted}, or mend the checkpoint")


def check_folder(path: Path) -> None:
    """See, without loading it, that a folder may hold a model.

    Raises:
        InputError: if it is none, or holds an adapter or no config.
    """
    if not path.is_dir():
        what = f"{path}: {'is a file' if path.exists() else 'no such folder'}"
        raise InputError(what, "name the folder of a model, with config and tokenizer")
    if (path / "adapter_config.json").is_file():
        what = f"{path}: holds an adapter, which belongs to another model"
        raise InputError(what, "merge it into that model and name the result; or take adapter_config.json away")
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: has no config.json", "name a model folder; a merge of folders writes one")


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
    check_folder(path)
    try:
        loaded = load(path, device=device.name, tensors=tensors)
    except CannotRunError as error:
        raise InputError(f"{path}: transformers cannot load it: {error}", "see `weft verify`") from None
    if loaded.misshapen:
        raise InputError(f"{path}: tensors of another shape than its config says: {listed(loaded.misshapen)}")
    if device.dtype == "float32":
        loaded.model.float()
    return Model(path, loaded, device)
