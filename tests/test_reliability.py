"""The page of figures says what was measured, and names tests that there are."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import reliability  # noqa: E402
from tables import MARKED  # noqa: E402

PAGE = (ROOT / "docs/reliability.md").read_text("utf-8")


def test_the_page_says_what_was_measured() -> None:
    assert reliability.filled(PAGE, reliability.load()) == PAGE, "python benchmarks/reliability.py draw"


def test_every_part_has_its_place() -> None:
    assert {found[2] for found in MARKED.finditer(PAGE)} == {"summary", *reliability.PARTS}


def test_the_tests_that_it_names_exist() -> None:
    defined = {
        node.name
        for file in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    named = set(re.findall(r"`(test_\w+|Test\w+)`", PAGE))
    assert len(named) > 12
    assert named <= defined
    files = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py|tests/[\w/.]+)`", PAGE)
    known = {path.name for path in (ROOT / "tests").rglob("*")}
    assert {Path(file).name for file in files} <= known


def test_strikes_are_counted_by_kind() -> None:
    records = [
        {"variant": "new", "kinds": {"before": 3, "power": 2}},
        {"variant": "file", "kinds": {"before": 4}},
        {"variant": "new", "kinds": {"before": 1, "power, twice": 1}},
    ]
    part = reliability.Figures("pytest", "c", "2026-01-01", "m", 60, 3, records)
    assert reliability.strikes(part) == 11
    assert reliability.strikes(part, "power") == 3
    assert reliability.kills(part).rows == [
        ("killed before a call", "4", "4", "8"),
        ("power failed after a call", "2", "0", "2"),
        ("power failed after a call, twice", "1", "0", "1"),
    ]


def test_a_part_that_fails_leaves_no_figures(capfd: pytest.CaptureFixture[str]) -> None:
    assert reliability.measured("this", 1).records == []
    assert "Beautiful is better than ugly" in capfd.readouterr().out
    with pytest.raises(SystemExit, match=r"json\.tool nowhere: failed; the figures are left as they were"):
        reliability.measured("json.tool nowhere", 1)


@pytest.mark.parametrize(
    ("line", "count"),
    [("=== 3 passed in 1s ===", 3), ("1 failed, 12 passed, 4 deselected in 2s", 12), ("no tests ran", 0)],
)
def test_what_pytest_says_at_its_end(line: str, count: int) -> None:
    assert reliability._passed([line]) == count
