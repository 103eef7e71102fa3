"""The recipes of examples/fisher run, in their tiny setting, and print their tables. Figures are not looked at here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples" / "fisher"


def run(name: str, *options: str) -> str:
    command = [sys.executable, FOLDER / name, "--tiny", "--seeds", "1", *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(output: str, name: str) -> list[str]:
    """The cells after the row's name, in the one line that begins so."""
    [line] = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


MERGES = ("isotropic merge", "Fisher merge")


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        ("ensembling.py", ("one of them, on average", *MERGES, "prediction ensemble")),
        ("intermediate.py", ("target alone", *MERGES, "donor, then fine-tuned on the target")),
        ("domain.py", ("classifier alone", *MERGES, "adapted, then fine-tuned")),
    ],
)
def test_a_recipe_prints_a_figure_for_each_row(script: str, rows: tuple[str, ...]) -> None:
    output = run(script)
    assert all(0 <= float(row(output, name)[0]) <= 100 for name in rows)


def test_both_curves_of_robust_fine_tuning_share_their_ends(tmp_path: Path) -> None:
    output = run("robust.py", "--out", str(tmp_path / "curve.png"))
    for end in ("0.0", "1.0"):
        tilted, shifted, *by_fisher = row(output, end)
        assert by_fisher == [tilted, shifted], "at the ends it is one of the two networks, whatever the Fishers"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
