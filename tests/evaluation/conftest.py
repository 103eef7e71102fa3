"""Two tasks, their experts and heads, and a merge of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import weft
from tests.evaluation.models import bert, labelled, linear_head, task


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once; nobody may change it."""
    place = tmp_path_factory.mktemp("evaluation")
    bert(place / "base", 0)
    for k, (name, classes) in enumerate([("colour", 3), ("size", 2)]):
        bert(place / "experts" / name, k + 1)
        labelled(place / "data" / name, classes)
        linear_head(place / "heads" / f"{name}.safetensors", classes, k)
        parts = {"kind": "classification", "data": {"folder": name}}
        task(place / "tasks" / f"{name}.yaml", **parts)
    parents = [place / "experts" / "colour", place / "experts" / "size"]
    weft.merge_to({"method": "linear", "models": [str(path) for path in parents]}, place / "merged")
    return place


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
