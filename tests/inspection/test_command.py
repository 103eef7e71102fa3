"""`weft verify` as a person or a pipeline sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.inspection.models import change, merged, rewrite


def run(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", "verify", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def poison(out: Path) -> None:
    rewrite(out / "model.safetensors", lambda tensors: tensors["model.norm.weight"].fill(np.nan))


def test_a_clean_output(tmp_path: Path) -> None:
    merged(tmp_path)
    done = run(tmp_path, "out")
    assert done.stdout.startswith("out  sound; 39 tensors in 1 file, 36 kB read, 27 checks, ")
    assert done.stderr == "reading: 36 kB\n"
    assert run(tmp_path, "out", "--quiet", "--strict").stdout == ""


def test_findings_are_lines_with_remedies(tmp_path: Path) -> None:
    poison(merged(tmp_path))
    lines = run(tmp_path, "out", code=1).stdout.splitlines()
    assert lines[0] == (
        "error (numbers): out/model.safetensors: tensor 'model.norm.weight' [16]: "
        "16 NaN among 16 numbers, the first at [0]"
    )
    assert lines[1].startswith("  -> look for it in the models that were merged")
    assert lines[2].startswith("out  1 error, 0 warnings; 39 tensors in 1 file")


def test_names_may_hold_brackets(tmp_path: Path) -> None:
    out = merged(tmp_path)
    (out / "[red]x.bin").write_bytes(b"")
    assert "out/[red]x.bin: weights in another format" in run(tmp_path, "out", code=1).stdout


def test_headers_only(tmp_path: Path) -> None:
    poison(merged(tmp_path))
    assert "0 B read, 26 checks" in run(tmp_path, "out", "--headers-only").stdout


def test_warnings_fail_only_when_strict(tmp_path: Path) -> None:
    change(merged(tmp_path) / "config.json", dtype="float16")
    assert "sound, 0 errors, 1 warning; " in run(tmp_path, "out").stdout
    assert "warning (config): out: config.json says dtype float16" in run(tmp_path, "out", "--strict", code=1).stdout


def test_json(tmp_path: Path) -> None:
    poison(merged(tmp_path))
    done = run(tmp_path, "out", "--json", code=1)
    verdict = json.loads(done.stdout)
    assert done.stderr == ""
    assert (verdict["ok"], verdict["path"], verdict["tensors"], verdict["files"]) == (False, "out", 39, 1)
    assert [(finding["level"], finding["check"]) for finding in verdict["findings"]] == [("error", "numbers")]
    assert verdict["bytes_read"] == 4 * verdict["elements"]


def test_bad_input(tmp_path: Path) -> None:
    merged(tmp_path)
    done = run(tmp_path, "ouut", code=2)
    assert "error: ouut: no such file or folder" in done.stderr
    assert "did you mean 'out'?" in done.stderr
    assert json.loads(run(tmp_path, "ouut", "--json", code=2).stdout)["ok"] is False
    (tmp_path / "t.csv").write_text("x")
    assert "neither .txt nor .jsonl" in run(tmp_path, "out", "--score", "t.csv", code=2).stderr


def test_what_was_not_checked_is_said(tmp_path: Path) -> None:
    out = merged(tmp_path)
    out.rename(tmp_path / "elsewhere")
    (tmp_path / "base").rename(tmp_path / "away")
    text = run(tmp_path, "elsewhere").stdout
    assert text.startswith("not checked: tensors were not compared with what the recipe yields: not found here: ")


@pytest.mark.slow
def test_trials_are_a_table(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.inspection.test_behaviour import write

    write(tmp_path / "m", 0)
    lines = run(tmp_path, "m", "--generate", "word1 word2").stdout.splitlines()
    assert lines[0].split() == ["model", "path", "loss", "writes"]
    assert lines[1].startswith("output  m ")
    assert "'word" in lines[1]


def test_a_check_of_files_never_imports_torch(tmp_path: Path) -> None:
    merged(tmp_path)
    program = (
        "import sys\nfrom weft.cli.app import app\n"
        "try: app(['verify', 'out', '-q'])\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
