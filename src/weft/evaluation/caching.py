"""What was computed once is not computed again: results by the hashes of model, task and code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from weft.checkpoints.folders import find_weights

_DECIDES = ("config.json", "generation_config.json", "added_tokens.json", "merges.txt", "preprocessor_config.json",
            "processor_config.json", "special_tokens_map.json", "vocab.json", "vocab.txt", "bpe.codes")  # fmt: skip
"""Files beside the weights that change what a model says; and all that begin with `tokenizer` or end in `.model`."""
_CODE = ("data", "ensembling", "heads", "metrics", "models", "pictures", "predicting", "questions", "reading",
         "schema")  # fmt: skip
_PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "sentencepiece", "pillow", "scikit-learn", "scipy")


def cache_folder() -> Path:
    """Where results are kept unless somebody says otherwise: `WEFT_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("WEFT_CACHE") or user_cache_path("weft")) / "evaluation"


def hash_of(*parts: Any) -> str:
    """Of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def hash_of_model(path: Path) -> str:
    """Of everything in a model's folder that changes what it says: weights, config, tokenizer."""
    beside = [file for file in path.iterdir() if file.is_file() and _decides(file)]
    return hash_of_files({*find_weights(path).files, *beside})


def _decides(file: Path) -> bool:
    return file.name in _DECIDES or file.name.startswith("tokenizer") or file.suffix == ".model"


def hash_of_files(files: Iterable[Path]) -> str:
    """Of names and contents."""
    return hash_of(
        [(file.name, _content(file, file.stat().st_mtime_ns, file.stat().st_size)) for file in sorted(files)]
    )


@cache
def _content(file: Path, written: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@cache
def hash_of_code() -> str:
    """Of the code that decides a score, and of the packages under it."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in _CODE] + [here.parent / "inspection" / "running.py"]
    return hash_of([_content(file, 0, 0) for file in files], [_version(package) for package in _PACKAGES])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Cache:
    """A folder of results by their hashes; without a folder it remembers nothing."""

    folder: Path | None

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What is known, if anything; a file that is damaged counts as nothing."""
        if self.folder is None:
            return None
        with suppress(OSError, ValueError):
            parsed = json.loads(self._file(key).read_text(encoding="utf-8"))
            return parsed if isinstance(parsed, dict) else None
        return None

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Remember; a folder that cannot be written to is no reason to fail."""
        if self.folder is None:
            return
        file = self._file(key)
        making = file.with_name(f".{file.name}.{os.getpid()}")
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            making.write_text(json.dumps(value), encoding="utf-8")
            making.replace(file)

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"
