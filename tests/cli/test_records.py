"""What a merge leaves beside the weights, and doing it again from there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import weft
from tests.cli.running import W, run
from weft.algorithms.svc import Svc
from weft.engine.record import recipe_text, relocated
from weft.engine.reproducing import reproduce
from weft.errors import InputError
from weft.recipes.schema import Recipe


@pytest.fixture
def merged(models: Path) -> Path:
    save_file({"w": W**2 + 1, "head": W**2 + 2}, models / "f.safetensors")
    (models / "r").mkdir()
    recipe = {
        "method": "fisher",
        "models": ["../a", {"path": "../b", "fisher": "../f.safetensors"}],
        "rules": [{"match": "head", "method": "linear"}],
    }
    (models / "r" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(models, "merge", "r/recipe.yaml", "-o", "out", "--hash")
    return models


def test_the_recorded_recipe_runs_from_where_it_lies(merged: Path) -> None:
    record = yaml.safe_load((merged / "out" / "weft_recipe.yaml").read_text())
    assert [entry["path"] for entry in record["models"]] == ["../a", "../b"]
    assert record["models"][1]["fisher"] == "../f.safetensors"
    run(Path.cwd(), "merge", str(merged / "out" / "weft_recipe.yaml"), "-o", str(merged / "again"))
    assert (merged / "again" / "model.safetensors").read_bytes() == (merged / "out" / "model.safetensors").read_bytes()


def test_the_lock_file_tells_inputs_and_outputs_apart(merged: Path) -> None:
    lock = json.loads((merged / "out" / "weft.lock.json").read_text())
    assert lock["weft"] == weft.__version__
    assert set(lock["inputs"]) == {"model 'a'", "model 'b'", "fisher of model 'b'"}
    assert lock["inputs"]["model 'a'"]["tensors"] == 2
    file = merged / "out" / "model.safetensors"
    assert lock["outputs"]["model.safetensors"]["size"] == file.stat().st_size
    assert len(lock["outputs"]["model.safetensors"]["blake3"]) == 64
    assert "numba" in lock["environment"]


def test_a_model_card_as_the_hub_expects_it(merged: Path) -> None:
    _, front, text = (merged / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {"tags": ["merge", "weft"], "library_name": "transformers"}
    assert "| model 'a' | 2 | 12 |" in text
    assert "Matena and Raffel 2022" in text
    assert str(merged) not in text, "paths of this machine stay here"


def test_reproduce(merged: Path) -> None:
    assert run(merged, "merge", "--reproduce", "out", "-o", "again").stdout.endswith("\nthe same bytes as out\n")
    assert (merged / "again" / "model.safetensors").read_bytes() == (merged / "out" / "model.safetensors").read_bytes()


def done_again(folder: Path, recipe: dict) -> None:
    """Merge, and merge again from what that left behind: `reproduce` compares the bytes."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base": "base", "models": ["a", "b"], **recipe}))
    weft.merge_to(folder / "recipe.yaml", folder / "done" / "out")
    reproduce(folder / "done" / "out", folder / "done" / "again")


SPARSE = {"method": "ties", "before": {"method": "dare", "drop": 0.7}}


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "linear", "rules": [{"match": "head", "use": "base"}]},
        {"method": "linear", "rules": [{"match": "head", "use": "drop"}]},
        {**SPARSE, "rules": [{"match": "head", "parameters": {"density": 1.0}}]},
        {**SPARSE, "rules": [{"match": "head", "before": "none"}]},
        {**SPARSE, "rules": [{"match": "head", "after": {"method": "svc"}}]},
        {"method": "ties", "after": "svc", "rules": [{"match": "w", "after": "none", "before": "dare"}]},
    ],
    ids=lambda recipe: json.dumps(recipe["rules"]),
)
def test_reproduce_follows_the_rules(models: Path, recipe: dict) -> None:
    done_again(models, recipe)


def test_a_step_that_a_rule_leaves_open_is_not_none() -> None:
    rules = [{"match": "x", "parameters": {"density": 0.5}, **step} for step in ({}, {"before": "none"})]
    recipes = [Recipe(base="o", models=["a"], rules=[rule], **SPARSE) for rule in rules]
    again = [Recipe.model_validate(yaml.safe_load(recipe_text(recipe))) for recipe in recipes]
    steps = [recipe.rules[0].step("before", recipe.before) for recipe in again]
    assert steps[0]["drop"] == 0.7
    assert steps[1] is None
    assert recipe_text(recipes[0]) != recipe_text(recipes[1]), "one is not resumed as the other"


MASK = {"method": "dare", "mask": {"a": "files/mask.safetensors"}}
MOVED = {"a": "../files/mask.safetensors"}


@pytest.fixture
def filed(models: Path) -> Path:
    for place in ("files", "average", "mass"):
        (models / place).mkdir()
        save_file({"w": W % 2, "head": W % 3}, models / place / "mask.safetensors")
    return models


def test_files_of_rules_are_found_from_the_output(filed: Path) -> None:
    rules = [
        {"match": "head", "before": MASK},
        {"match": "w", "method": "fisher", "parameters": {"fisher": MASK["mask"]}},
    ]
    recipe = Recipe(method="ties", base="base", models=["a", "b"], before=MASK, rules=rules, folder=filed)
    there = relocated(recipe, filed / "out")
    assert there.before == {"method": "dare", "mask": MOVED}
    assert there.rules[0].before == {"method": "dare", "mask": MOVED}
    assert there.rules[1].parameters == {"fisher": MOVED}
    assert there.rules[1].step("before", there.before) == there.before, "it still leaves that open"
    done_again(filed, {"method": "ties", "rules": rules})


@pytest.mark.parametrize(
    ("method", "word"), [("mats", {"start": "base"}), ("mats", {"start": "average"}), ("ties", {"elect": "mass"})]
)
def test_a_word_is_no_path_though_a_folder_has_its_name(filed: Path, method: str, word: dict) -> None:
    rules = [{"match": "head", "parameters": word}]
    recipe = Recipe(method=method, base="base", models=["a"], parameters=word, rules=rules, folder=filed)
    there = relocated(recipe, filed / "out")
    assert there.base == "../base"
    assert there.parameters == there.rules[0].parameters == word


def test_reproduce_refuses_inputs_that_changed(merged: Path) -> None:
    save_file({"w": W, "head": W, "new": W}, merged / "a" / "model.safetensors")
    assert "model 'a' is not what it was" in run(merged, "merge", "--reproduce", "out", "-o", "again", code=2).stderr


def test_reproduce_refuses_files_beside_the_models_that_changed(merged: Path) -> None:
    save_file({"w": W**2, "head": W**2, "new": W}, merged / "f.safetensors")
    with pytest.raises(InputError, match="fisher of model 'b' is not what it was"):
        reproduce(merged / "out", merged / "again")
    assert not (merged / "again").exists()


def test_two_files_of_one_name_are_told_apart(filed: Path) -> None:
    save_file({"w": W, "head": W, "more": W}, filed / "other.safetensors")
    masks = [{"method": "dare", "mask": {"a": name}} for name in ("files/mask.safetensors", "other.safetensors")]
    rules = [{"match": "head", "before": masks[1]}, {"match": "w", "before": masks[0]}]
    done_again(filed, {"method": "ties", "before": masks[0], "rules": rules})
    lock = json.loads((filed / "done" / "out" / "weft.lock.json").read_text())
    told = {label: entry["tensors"] for label, entry in lock["inputs"].items() if label.startswith("mask")}
    assert told == {"mask of model 'a'": 2, "mask of model 'a' (2)": 3}


def test_the_defaults_of_every_step_are_written_down() -> None:
    rules = [{"match": "x", "before": "della"}, {"match": "y", "method": "slerp"}]
    recipe = Recipe(method="ties", base="o", models=["a", "b"], before=SPARSE["before"], after="svc", rules=rules)
    told = yaml.safe_load(recipe_text(recipe))
    assert told["before"] == {"method": "dare", "drop": 0.7, "rescale": True, "select": "random", "seed": 0}
    assert told["after"].keys() - {"method"} == {n for n, i in Svc.chained_fields().items() if i.default is not None}
    assert told["rules"][0]["before"].keys() > {"method", "seed"}
    assert told["parameters"]["t"] == 0.5, "of slerp, which a rule names"
    assert recipe_text(Recipe.model_validate(told)) == recipe_text(recipe)


def spoiled(folder: Path) -> None:
    """Other weights under the same header."""
    tensors = load_file(folder / "model.safetensors")
    save_file({n: np.array(t + 1) for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("hashes", "why"),
    [
        (["--hash"], "weights of an input have changed since, though their names and shapes have not"),
        ([], "weights of an input have changed since, or out has (a merge with --hash can tell which)"),
    ],
)
def test_reproduce_tells_when_the_result_differs(merged: Path, hashes: list[str], why: str) -> None:
    run(merged, "merge", "-m", "linear", "a", "b", "-o", "out", "--overwrite", *hashes)
    spoiled(merged / "a")
    done = run(merged, "merge", "--reproduce", "out", "-o", "again", code=1)
    assert f"again differs from out in model.safetensors: {why}" in done.stderr


def test_reproduce_knows_the_bytes_that_were_hashed(merged: Path) -> None:
    """Whatever has become of the output since."""
    run(merged, "merge", "-m", "linear", "a", "b", "-o", "out", "--overwrite", "--hash")
    spoiled(merged / "out")
    told = json.loads(run(merged, "merge", "--reproduce", "out", "-o", "again", "--json").stdout)
    assert told["reproduced"] == "out"


@pytest.mark.parametrize("arguments", [["a"], ["-m", "linear"], ["-p", "x=1"]])
def test_reproduce_goes_alone(merged: Path, arguments: list[str]) -> None:
    done = run(merged, "merge", "--reproduce", "out", "-o", "again", *arguments, code=2)
    assert "does not go with --reproduce" in done.stderr


def test_only_outputs_can_be_reproduced(merged: Path) -> None:
    assert "No such file" in run(merged, "merge", "--reproduce", "a", "-o", "again", code=2).stderr
    (merged / "out" / "weft.lock.json").write_text("{}")
    assert "is not a lock file" in run(merged, "merge", "--reproduce", "out", "-o", "again", code=2).stderr
