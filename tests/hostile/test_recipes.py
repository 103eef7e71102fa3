"""Recipes that stand for more than they say, ask for objects, or never end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.limited import MEGABYTE, limited, loaded
from weft.errors import InputError
from weft.recipes.loading import load_recipe

HEAD = "method: linear\nmodels: [a, b]\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    said = str(caught.value)
    assert str(path) in said
    assert "->" in said
    assert len(said) < 30_000
    assert said.replace("\n", "").isprintable()
    return said


def laughs(levels: int) -> str:
    """Each line holds the one before ten times."""
    lines = ["l0: &l0 [ha]"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{k}: &m{k} {{<<: [{', '.join([f'*m{k - 1}'] * 10)}]}}" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "an object": (
        HEAD + "base: !!python/object/apply:os.system ['touch trace']",
        "the tag 'python/object/apply:os.system'",
    ),
    "a module": (HEAD + "base: !!python/module:os", "the tag 'python/module:os' is not read, only plain values"),
    "a tuple": (HEAD + "base: !!python/tuple [1]", "the tag 'python/tuple' is not read"),
    "a tag of somebody's own": (HEAD + "base: !mine x", "the tag '!mine' is not read"),
    "bytes": (HEAD + "base: !!binary aGE=", "the tag 'binary' is not read"),
    "a set": (HEAD + "parameters: !!set {a}", "the tag 'set' is not read"),
    "a number that is none": (HEAD + "base: !!int abc", "not valid YAML"),
    "an empty number": (HEAD + "base: !!int ''", "not valid YAML"),
    "a truth that is none": (HEAD + "base: !!bool maybe", "not valid YAML"),
    "a date that is none": (HEAD + "base: !!timestamp x\nx: 1", "unknown key 'x'"),
    "a key given twice": (HEAD + "method: ties", "the key 'method' is given twice"),
    "a key given twice, deep inside": (
        HEAD + "rules: [{match: a, use: a, match: b}]",
        "the key 'match' is given twice",
    ),
    "a merge key given twice": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "the key '<<' is given twice"),
    "a list as a key": ("? [a]\n: 1", "a key is a list or a map, not text"),
    "an alias of nothing": (HEAD + "base: *x", "found undefined alias"),
    "an alias of itself": ("models: &x [*x]", "the alias *x is part of what it stands for"),
    "an alias of itself, further out": ("models: &x {a: [{b: *x}]}", "the alias *x is part of what it stands for"),
    "two documents": (HEAD + "---\n" + HEAD, "expected a single document"),
    "a key that is no number": (HEAD + "parameters: {.nan: 1}", "the key nan in parameters is not text"),
    "a key that is no number, twice": (HEAD + "parameters: {.nan: 1, .nan: 2}", "the key '.nan' is given twice"),
    "infinite lengths": (HEAD + "output: {shard_size: .inf}", "output shard_size"),
    "a number in base sixty": (HEAD + "base: 1" + ":1" * 10_000, "a number of 20,001 characters"),
    "a number in base sixteen": (HEAD + "base: 0x" + "f" * 10_000, "a number of 10,002 characters"),
    "a number of digits": (HEAD + "base: " + "9" * 10_000, "a number of 10,000 characters"),
    "a NUL": (HEAD + "base: 'a\0b'", "not valid YAML"),
    "an escape sequence": (HEAD + "base: \x1b[2J", "not valid YAML"),
    "an escape sequence as a key": (HEAD + '"\\e[2J": 1', "unknown key '\\x1b[2J'"),
    "half of a surrogate pair": (HEAD + 'base: "\\ud800"', "half of a surrogate pair, which is no text"),
    "no UTF-8": (b"method: \xff", "not text in UTF-8"),
    "UTF-16": (HEAD.encode("utf-16"), "not text in UTF-8"),
    "nothing": ("", "a recipe is a map"),
    "a lone equals sign": ("=", "a recipe is a map"),
    "a list": ("[1]", "a recipe is a map"),
    "forty-one deep": ("a: " + "[" * 41 + "]" * 41, "it is nested more than 40 deep"),
    "deep in flow": ("[" * 100_000, "nested"),
    "deep in braces": ("{a: " * 50_000, "nested"),
    "deep in dashes": ("- " * 100_000 + "a", "nested"),
    "deep in question marks": ("? " * 100_000 + "a", "nested"),
    "deep by indentation": ("\n".join(" " * k + f"k{k}:" for k in range(500)), "nested"),
    "a thousand million laughs": (laughs(10), "it has more than 100,000 entries, aliases counted"),
    "a thousand million merges": (merges(10), "it has more than 100,000 entries, aliases counted"),
    "two hundred thousand entries": (HEAD + "base: [" + "1," * 200_000 + "1]", "it has more than 100,000 entries"),
    "a megabyte": ("# " + "x" * 1_000_000, "it is longer than 1 MB"),
    "ten thousand models": ("method: linear\nmodels: [" + "a," * 10_000 + "a]", "10,001 models, more than 1,000"),
    "ten thousand patterns": (HEAD + "rules:\n- {use: a, match: [" + "a," * 10_000 + "a]}", "10,001 patterns in rules"),
    "two thousand rules": (
        HEAD + "rules:\n" + "- {use: a, match: a}\n" * 2000,
        "2,000 patterns in rules, more than 1,000",
    ),
    "two thousand changes": (
        HEAD + "rename: {" + ",".join(f"a{k}: b" for k in range(2000)) + "}",
        "2,000 changes in rename",
    ),
    "a long expression": (
        HEAD + f"rules: [{{use: a, match: 're:{'a' * 1001}'}}]",
        "it has 1,001 characters, more than 1,000",
    ),
    "a deep expression": (
        HEAD + f"rules: [{{use: a, match: 're:{'(' * 480}{')' * 480}'}}]",
        "is not a regular expression",
    ),
    "an expression of repetitions": (
        HEAD + "rules: [{use: a, match: 're:((a{999}){999}){999}'}]",
        "repetitions come to",
    ),
    "an expression of one repetition": (HEAD + "rules: [{use: a, match: 're:a{99999999999999999999}'}]", "repetitions"),
    "a broken replacement": (HEAD + "rename: {'re:(a)': '\\2'}", "invalid group reference 2"),
    "a long replacement": (HEAD + f"rename: {{'re:(a)': '{'b' * 1001}'}}", "has more than 1,000 characters"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.chdir(tmp_path)
    text, says = FAULTS[fault]
    assert says in complaint(written(tmp_path, text))
    assert not (tmp_path / "trace").exists()


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = """
method: linear
models: [a, b]
rules:
- &first {match: x, use: a}
- {<<: *first, match: y}
- {<<: *first, match: z}
"""
    assert [rule.match for rule in load_recipe(written(tmp_path, text)).rules] == [("x",), ("y",), ("z",)]


def test_dates_and_times_are_names(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "method: linear\nmodels: [2024-01-01, b]")).names == ("2024-01-01", "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        lambda: laughs(12),
        lambda: merges(12),
        lambda: "- " * 499_000,
        lambda: "a: '" + "x\n\n" * 330_000 + "'",
        lambda: "[" + "&a x," * 190_000 + "]",
        lambda: '"' + "\\x41" * 240_000 + '"',
        lambda: "a: |\n" + " x\n" * 330_000,
        lambda: "%TAG ! tag:x,2000:\n" * 50_000,
        lambda: HEAD + "".join(f"k{k}: 1\n" for k in range(90_000)),
        lambda: "method: linear\nmodels:\n" + "".join(f"- {{path: a, name: n{k}}}\n" for k in range(20_000)),
    ],
    ids=["laughs", "merges", "dashes", "quoted", "anchors", "escapes", "block", "directives", "keys", "names"],
)
def test_bombs(tmp_path: Path, made: Callable[[], str]) -> None:
    outcome = loaded(written(tmp_path, made()), seconds=120)
    assert outcome.kind == "InputError"
    assert outcome.memory < 400 * MEGABYTE


def test_a_recipe_without_end(tmp_path: Path) -> None:
    outcome = loaded(Path("/dev/zero"), seconds=20)
    assert "it is longer than 1 MB" in outcome.said
    assert outcome.memory < 50 * MEGABYTE


def test_a_recipe_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    writer = threading.Thread(target=(tmp_path / "recipe.yaml").write_text, args=(HEAD,))
    writer.start()
    assert load_recipe(tmp_path / "recipe.yaml").names == ("a", "b")
    writer.join()


# --- expressions ------------------------------------------------------------------------------------------------------

CATASTROPHES = (
    "(a+)+$",
    "(.*a){25}",
    "(a|aa)+$",
    "(a|a?)+$",
    r"(\w+\.?)+\d\d",
    "(?=(a+)+$)x|(a+a+)+b",
    "(a?){30}a{30}b?!!",
)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_expressions_that_take_for_ever(pattern: str) -> None:
    """Within its allowance it either answers or says that it cannot; both ways of use."""
    body = "e = Expression(sys.argv[1]); e.fits('a' * 999 + '.'); e.replaced('a' * 999 + '.', '')"
    outcome = limited(body, pattern, imports="from weft.checkpoints.patterns import Expression", seconds=40)
    assert outcome.kind == "passed" or "takes more than 10 s to match; it was at 'aaa" in outcome.said
    assert outcome.memory < 200 * MEGABYTE


def test_changes_of_names_that_double_them(tmp_path: Path) -> None:
    import numpy as np

    from weft.checkpoints.memory import InMemory
    from weft.checkpoints.renamed import renamed

    model = InMemory({"w" * 8: np.zeros(1)}, "a model")
    changes = {f"re:^(.{{{k + 1},}})$": r"\1\1" for k in range(8)}
    with pytest.raises(InputError, match="the name has 1,024 characters, more than 1,000"):
        renamed(model, changes)
    with pytest.raises(InputError, match="holds characters that cannot be printed"):
        renamed(model, {"w": "\x1b[2J"})
