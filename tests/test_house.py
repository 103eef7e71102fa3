"""The house: what may be imported by whom, what is public, what every module owes its reader."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weft

MODULES = sorted(m.name for m in pkgutil.walk_packages(weft.__path__, "weft.") if not m.name.endswith("__main__"))
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", weft.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(weft, name)
    assert name.startswith("__") or inspect.getdoc(value)


def test_public_names_stay_what_they_are_after_all_modules_are_imported() -> None:
    for name in MODULES:
        importlib.import_module(name)
    assert not [name for name in weft.__all__ if inspect.ismodule(getattr(weft, name))]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'mrege'"):
        weft.mrege  # noqa: B018


def test_import_weft_imports_nothing_else() -> None:
    program = "import sys, weft; print(sorted({m.split('.')[0] for m in sys.modules} - {*sys.stdlib_module_names}))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['__main__', 'weft']\n"


def test_the_version_is_told_once() -> None:
    from importlib.metadata import version

    assert version("weft") == weft.__version__
    assert f"## {weft.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_method_has_a_formula_a_source_and_an_example() -> None:
    for name in weft.methods():
        text = inspect.getdoc(weft.method(name)) or ""
        assert ".. math::" in text, name
        assert ":math:" not in text, "inline formulas cannot be read on a terminal"
        assert "θ =" in weft.method(name).formula
        assert "Source: " in text, name
        assert re.search(r">>> .*weft.merge\(", text), name
