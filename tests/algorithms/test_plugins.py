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
from weft.engine.progress import Progress
from weft.recipes.json_schema import recipe_schema
from weft.testing import MethodTests

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "writing-a-method.md").read_text(encoding="utf-8")
CODE, TESTS, SHRUNK = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
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


@pytest.fixture
def shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> Callable[[str], ModuleType]:
    """The guide's method with a statistic, or what somebody made of it, installed."""

    def installed(code: str = SHRUNK) -> ModuleType:
        module(tmp_path, "weft_shrunk", code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "weft_shrunk", raising=False)
        install("weft-shrunk", shrunk="weft_shrunk:Shrunk")
        return importlib.import_module("weft_shrunk")

    return installed


def test_the_guide_s_method_passes_the_guide_s_tests(clipped: ModuleType) -> None:
    """All tests that the class inherits, by hand, since pytest collects no class from a page."""
    space: dict[str, Any] = {}
    exec(TESTS, space)
    passes(space["TestClipped"]())


def test_so_does_its_method_with_a_statistic(shrunk: Callable[..., ModuleType]) -> None:
    class TestShrunk(MethodTests):
        method = "shrunk"

    made = shrunk()
    assert made.shrunk(1.0, (3.0, 2.0), (1.0, 1.0), size=(4.0, 0.5), most=2.0) == 3.0
    passes(TestShrunk())


def test_its_statistic_is_about_the_whole_model(shrunk: Callable[..., ModuleType]) -> None:
    """Squares 1 + 1 + 49 + 49 of four parameters: root mean square 5, shrunk to 1."""
    shrunk()
    base, tuned = {"v": np.zeros(2), "w": np.zeros(2)}, {"v": np.array([1.0, -1.0]), "w": np.array([7.0, -7.0])}
    merged = weft.merge([tuned], base=base, method="shrunk", most=1)
    np.testing.assert_allclose(merged["v"], [0.2, -0.2], rtol=1e-15)
    np.testing.assert_allclose(merged["w"], [1.4, -1.4], rtol=1e-15)


def passes(suite: MethodTests) -> None:
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
        "the method 'bad' of broken 0.1 cannot be loaded: OSError: no disk (bad_raises.py, line 1)\n"
        "  -> mend that package, or uninstall it",
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


MISTAKES = {
    "program": (
        "Total(root_mean_square), each=True)",
        "Total(root_mean_square), each=True, whole_model=True)",
        r"TypeError: Statistic.__init__() got an unexpected keyword argument 'whole_model' (PLACE)",
    ),
    "nothing": (
        "return Program(shrunk,",
        "Program(shrunk,",
        "TypeError: program() gives NoneType, not a Program",
    ),
    "library": (
        "total += w * (theta - base)",
        "total += sqrt(w) * (theta - base)",
        "shrunk uses 'sqrt', which cannot be compiled: use numbers, functions marked @element, exp and tanh of "
        "weft.authoring, and abs, enumerate, float, len, max, min, range, tuple, zip (PLACE)",
    ),
    "misspelt": (
        'Statistic("size"',
        'Statistic("seize"',
        "shrunk asks for 'size', which nothing provides (weft_shrunk.py, line 18)",
    ),
    "statistic": (
        "def squared(base, tuned):",
        "def squared(base, tuned, energy):",
        "squared asks for 'energy', which nothing provides (weft_shrunk.py, line 7)",
    ),
    "loop": (
        "    return base + total",
        "    while total > 1.0:\n        total = 0.5 * total\n    return base + total",
        "SyntaxError: `while total > 1.0:` is a loop that cannot be compiled: only `for` and `tuple(...)` over the "
        "models can (PLACE)",
    ),
    "broken off": (
        "        total += w",
        "        if w > 1.0:\n            break\n        total += w",
        "SyntaxError: a loop over models has no break, continue or else (weft_shrunk.py, line 22)",
    ),
    "types": ("return base + total", "return base + tuned", "found for signature: >>> add(float64, UniTuple("),
    "lambda": (
        "Program(shrunk,",
        "Program(lambda tuned: tuned[0],",
        "is not a function definition: write it with `def`",
    ),
}
"""What somebody writes, what was there, and what is said."""


class Heard(Progress):
    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, name: str, total: int) -> None:
        self.phases.append(name)


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_told_before_the_merge_begins(kind: str, shrunk: Callable[..., ModuleType]) -> None:
    old, new, expected = MISTAKES[kind]
    assert SHRUNK.count(old) == 1
    code = SHRUNK.replace(old, new)
    shrunk(code)
    line = code[: code.index(new)].count("\n") + 1
    heard, model = Heard(), {"w": np.ones(3)}
    with pytest.raises(weft.InputError) as error:
        weft.merge([model], base=model, method="shrunk", progress=heard)
    (problem,) = error.value.problems
    assert problem.what.startswith("the method 'shrunk' of weft-shrunk 0.1 cannot be used: ")
    assert expected.replace("PLACE", f"weft_shrunk.py, line {line}") in problem.what
    assert problem.remedy == "mend that package, or choose another method"
    assert "\n" not in problem.what
    assert heard.phases.count("merging") == 0
    with pytest.raises(weft.InputError, match="cannot be used"):
        weft.plan({"method": "shrunk", "base": model, "models": [model]})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("return sqrt(-1.0 - total)", r"ValueError: math domain error \(weft_shrunk.py, line 15\)"),
        ("sqrt(total / count)", r"root_mean_square returns nothing \(weft_shrunk.py, line 13\)"),
    ],
)
@pytest.mark.parametrize("tensors", [1, 300])
@pytest.mark.parametrize("of_model", [True, False])
def test_a_mistake_that_shows_while_it_merges(
    written: str, expected: str, tensors: int, of_model: bool, shrunk: Callable[..., ModuleType], tmp_path: Path
) -> None:
    code = SHRUNK.replace("return sqrt(total / count)", written)
    shrunk(code if of_model else code.replace(" whole_model=True,", ""))
    model = {f"w{k}": np.ones(3) for k in range(tensors)}
    expected = f"'shrunk' of weft-shrunk 0.1 cannot be used: {expected}"
    with pytest.raises(weft.InputError, match=expected) as error:
        weft.merge_to({"method": "shrunk", "base": model, "models": [model]}, tmp_path / "out")
    assert isinstance(error.value.__cause__, (ValueError, TypeError))
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_a_validator(shrunk: Callable[..., ModuleType]) -> None:
    validator = (
        "    @model_validator(mode='after')\n    def _check(self):\n        return self.weigth\n\n    def program"
    )
    code = "from pydantic import model_validator\n" + SHRUNK.replace("    def program", validator)
    shrunk(code)
    with pytest.raises(weft.InputError, match="AttributeError: 'Shrunk' object has no attribute 'weigth'"):
        weft.merge([{"w": np.ones(3)}], base={"w": np.ones(3)}, method="shrunk")
    assert "shrunk" in CliRunner().invoke(app, ["methods"]).output


def test_a_mistake_of_our_own_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: Any) -> Any:
        raise KeyError("ours")

    monkeypatch.setattr(weft.method("linear"), "program", mistaken)
    with pytest.raises(KeyError, match="ours"):
        weft.merge([{"w": np.ones(1)}])


DERIVED = """
from typing import ClassVar, final
from weft.authoring import Derived, Method, Program, element, parameter

@element
def scaled(tuned, factor):
    return factor * tuned[0]

@final
class Shrunk(Method):
    name: ClassVar = "shrunk"
    title: ClassVar = "twice the first"
    formula: ClassVar = "θ = 2 θ₁"
    source: ClassVar = "a test"
    needs_base: ClassVar = False
    laws: ClassVar = {}

    def program(self):
        return Program(scaled, statistics=(Derived("factor", lambda every: [2.0 for _ in every]),))
"""


def test_a_derived_number_may_be_one_for_all_models(
    shrunk: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it is, nobody knows before it is computed; the plan refuses neither, on a new machine neither."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "weft_shrunk.py"))
    shrunk(DERIVED)
    assert weft.merge([{"w": np.ones(2)}] * 2, method="shrunk")["w"].tolist() == [2.0, 2.0]


def test_what_only_the_class_says_is_shown(shrunk: Callable[..., ModuleType]) -> None:
    start, end = SHRUNK.index("    .. math::"), SHRUNK.index("    Example:")
    shrunk(SHRUNK[:start] + SHRUNK[end:])
    shown = CliRunner().invoke(app, ["methods", "shrunk"]).output
    assert "θ = θ₀ + Σ wᵢ min(1, c / sᵢ) δᵢ" in shown
    assert "Source: docs/writing-a-method.md" in shown
    shrunk()
    shown = CliRunner().invoke(app, ["methods", "shrunk"]).output
    assert shown.count("θ = θ₀ + Σ wᵢ min(1, c / sᵢ) δᵢ") == 1
    assert shown.count("Source: ") == 1
    assert "math::" not in shown


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
