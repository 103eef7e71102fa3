"""A recipe with ids on the Hub, from end to end against a local server that speaks its protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests.hub_server import HubServer

pytestmark = pytest.mark.slow

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def weft(folder: Path, server: HubServer, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "weft", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done


def model(folder: Path, offset: int) -> Path:
    folder.mkdir()
    save_file({"w": W + offset}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def test_ids_are_downloaded_merged_recorded_and_reproduced(tmp_path: Path) -> None:
    with HubServer().running() as server:
        server.add("org/base", model(tmp_path / "base-files", 0))
        server.add("org/expert", model(tmp_path / "expert-files", 4))
        model(tmp_path / "local", 2)
        recipe = {"method": "task_arithmetic", "base": "org/base", "models": ["org/expert@main", "local"]}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**recipe, "parameters": {"scale": 0.5}}))
        done = weft(tmp_path, server, "merge", "r.yaml", "-o", "out")
        assert "downloading org/base" in done.stderr
        assert np.allclose(load_file(tmp_path / "out" / "model.safetensors")["w"], W + 3)
        record = yaml.safe_load((tmp_path / "out" / "weft_recipe.yaml").read_text())
        lock = json.loads((tmp_path / "out" / "weft.lock.json").read_text())
        commit = lock["inputs"]["base"]["commit"]
        assert record["base"] == f"org/base@{commit}"
        assert record["models"][0]["path"].startswith("org/expert@")
        assert record["models"][0]["name"] == "expert"
        front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
        assert yaml.safe_load(front)["base_model"] == ["org/base", "org/expert"]
        weft(tmp_path, server, "merge", "--reproduce", "out", "-o", "again")
        plan = json.loads(weft(tmp_path, server, "plan", "r.yaml", "--json").stdout)
        assert [described["path"] for described in plan["inputs"]] == ["org/base", "org/expert@main", "local"]


def test_a_plan_leaves_the_weights_where_they_are(tmp_path: Path) -> None:
    with HubServer().running() as server:
        for k, name in enumerate(("base", "expert")):
            server.add(f"org/{name}", model(tmp_path / f"{name}-files", k))
        arguments = ("-m", "task_arithmetic", "-b", "org/base", "org/expert")
        size = sum(
            path.stat().st_size for name in ("base", "expert") for path in (tmp_path / f"{name}-files").iterdir()
        )
        told = json.loads(weft(tmp_path, server, "plan", *arguments, "--json").stdout)
        assert (told["download_bytes"], told["read_bytes"]) == (size, 2 * W.nbytes)
        assert [described["tensors"] for described in told["inputs"]] == [1, 1]
        assert f"download {size - 4} B from the Hub first" in weft(tmp_path, server, "plan", *arguments).stdout
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        weft(tmp_path, server, "merge", *arguments, "-o", "out")
        assert json.loads(weft(tmp_path, server, "plan", *arguments, "--json").stdout)["download_bytes"] == 0


def test_what_the_hub_lacks_is_told_with_all_other_problems(tmp_path: Path) -> None:
    with HubServer().running() as server:
        done = weft(tmp_path, server, "merge", "-m", "linear", "org/nothing", "nowhere", "-o", "out", code=2)
    assert "2 problems:" in done.stderr
    assert "org/nothing" in done.stderr
    assert "no such file or folder" in done.stderr
    assert not (tmp_path / "out").exists()
