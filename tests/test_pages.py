"""The pages that are made are up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_methods", ROOT / "docs" / "make_methods.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_method_has_its_page(maker: ModuleType) -> None:
    made = maker.pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert there.keys() == made.keys(), "run `make docs`"
    assert [name for name in made if there[name] != made[name]] == [], "not up to date: run `make docs`"


def test_a_page_says_what_the_class_says(maker: ModuleType) -> None:
    from weft.algorithms.slerp import Slerp

    page = maker.page(Slerp)
    assert "| `t` | `0.5` | from 0 to 1 | how much of the way from the first model to the second |" in page
    assert page.count("$$") == 2
    assert ".. math::" not in page
    assert '>>> weft.merge([a, b], method="slerp", t=0.5)' in page
