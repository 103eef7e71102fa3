"""Methods that other packages bring: found, checked, and when they are broken nobody's trouble but their own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import weft
from weft.algorithms import plugins
from weft.algorithms.registry import usable
from weft.cli.app import app
from weft.recipes.json_schema import recipe_schema
from weft.testing import MethodTests

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "writing-a-method.md").read_text(encoding="utf-8")
CODE, TESTS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Pretend that a package offers methods: names and what they are."""
    points: list[EntryPoint] = []

    def installed(package: str, **offered: str) -> None:
        dist: Any = SimpleNamespace(name=package, version="0.1")
        points.extend(EntryPoint(name, value, plugins.GROUP)._for(dist) for name, value in offered.items())
        plugins._offered.cache_clear()

    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins._offered.cache_clear()
    yield installed
    monkeypatch.undo()
    plugins._offered.cache_clear()


@pytest.fixture
def clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> ModuleType:
    """The method of the guide, installed."""
    path = tmp_path / "weft_clipped.py"
    path.write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "weft_clipped", raising=False)
    install("weft-clipped", clipped="weft_clipped:Clipped")
    return importlib.import_module("weft_clipped")


def test_it_is_a_method_like_every_other(clipped: ModuleType) -> None:
    assert weft.methods()[-1] == "clipped"
    assert weft.method("clipped") is clipped.Clipped
    base, tuned = {"w": np.zeros(3)}, {"w": np.array([0.5, -3.0, 0.25])}
    merged = weft.merge([tuned, tuned], base=base, method="clipped", limit=1, weight=[1, 0.5])
    assert merged["w"].tolist() == [0.75, -1.5, 0.375]
    shown = CliRunner().invoke(app, ["methods", "clipped"])
    assert "sum of changes, each cut at a limit" in shown.output
    assert "clipped" in recipe_schema()["properties"]["method"]["enum"]
    with pytest.raises(weft.InputError, match="did you mean 'clipped'"):
        weft.method("cliped")


def test_nothing_of_a_package_is_imported_before_it_is_asked_for(install: Install) -> None:
    install("absent", ghost="no_such_module_anywhere:Ghost")
    assert "ghost" in weft.methods()
    assert weft.merge([{"w": np.ones(1)}])["w"] == 1


def test_the_guide_s_method_passes_the_guide_s_tests(clipped: ModuleType) -> None:
    """All tests that the class inherits, by hand, since pytest collects no class from a page."""
    space: dict[str, Any] = {}
    exec(TESTS, space)
    suite = space["TestClipped"]()
    names = [name for name in dir(MethodTests) if name.startswith("test_")]
    assert len(names) > 12
    skipped = 0
    for name in names:
        try:
            getattr(suite, name)()
        except pytest.skip.Exception:
            skipped += 1
    assert skipped == 2, "two laws it does not declare"


def module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


BROKEN = {
    "raises": (
        "raise OSError('no disk')",
        "X",
        "the method 'bad' of broken 0.1 cannot be loaded: OSError: no disk\n  -> mend that package, or uninstall it",
    ),
    "exits": ("import sys; sys.exit(3)", "X", "the method 'bad' of broken 0.1 cannot be loaded: SystemExit: 3"),
    "lacks": ("", "X", "cannot be loaded: AttributeError: module 'bad_lacks' has no attribute 'X'"),
    "function": ("def X(): pass", "X", "bad_function:X is not a complete subclass of weft.authoring.Method"),
    "abstract": ("from weft.authoring import Method as X", "X", "bad_abstract:X is not a complete subclass"),
    "named": ("from weft.algorithms.ties import Ties as X", "X", "bad_named:X has the name 'ties'"),
    "silent": (
        "from weft.authoring import Method\nclass X(Method):\n    name = 'bad'\n    def program(self): ...",
        "X",
        "bad_silent:X",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_gets_one_clear_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install
) -> None:
    text, attribute, expected = BROKEN[kind]
    module(tmp_path, f"bad_{kind}", text)
    monkeypatch.syspath_prepend(tmp_path)
    install("broken", bad=f"bad_{kind}:{attribute}")
    with pytest.raises(weft.InputError) as error:
        weft.merge([{"w": np.ones(1)}], method="bad")
    assert expected in str(error.value)
    assert len(error.value.problems) == 1


def test_the_others_do_not_suffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    module(tmp_path, "bad_one", "raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    install("broken", bad="bad_one:X")
    listed = CliRunner().invoke(app, ["methods"])
    assert listed.exit_code == 0
    assert "karcher" in listed.output
    assert "warning: the method 'bad' of broken 0.1 cannot be loaded: RuntimeError: broken" in listed.output
    assert CliRunner().invoke(app, ["schema"]).exit_code == 0
    assert weft.merge([{"w": np.ones(1)}], method="linear")["w"] == 1


def test_a_name_that_is_taken(install: Install) -> None:
    install("greedy", ties="greedy:Ties")
    assert weft.method("ties").__module__ == "weft.algorithms.ties"
    _, problems = usable()
    assert [str(problem) for problem in problems] == [
        "the method 'ties' of greedy 0.1 is not used: weft has one of that name\n  -> give it another name"
    ]


def test_a_name_that_two_packages_give(install: Install) -> None:
    install("one", new="one:New")
    install("two", new="two:New")
    with pytest.raises(weft.InputError) as error:
        weft.method("new")
    assert str(error.value) == "two packages offer a method 'new': one 0.1 and two 0.1\n  -> uninstall one of them"


@pytest.mark.slow
def test_as_a_real_package(tmp_path: Path) -> None:
    """Built and installed by pip into a folder of its own; then its tests, by pytest, as the guide says."""
    pytest.importorskip("setuptools")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "weft_clipped.py").write_text(CODE, encoding="utf-8")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (source / "test_clipped.py").write_text(TESTS, encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    run("-m", "pip", "install", *options, "--target", site, source)
    assert "clipped" in run("-m", "weft", "methods", path=site)
    passed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", source / "test_clipped.py", path=site)
    assert re.search(r"\d\d passed, 2 skipped", passed)


def run(*arguments: Any, path: Path | None = None) -> str:
    import os

    paths = [str(ROOT / "src"), *([str(path)] if path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, cwd=path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
