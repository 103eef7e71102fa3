"""Small models on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.cli.running import W


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for k, name in enumerate(["base", "a", "b"]):
        (tmp_path / name).mkdir()
        save_file({"w": W + k, "head": -W - k}, tmp_path / name / "model.safetensors", {"format": "pt"})
        (tmp_path / name / "config.json").write_text(json.dumps({"of": name}))
    return tmp_path
