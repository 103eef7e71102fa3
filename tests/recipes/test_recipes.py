"""Recipes: precedence, names, and what a slip of the pen is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.errors import InputError
from weft.recipes.loading import load_recipe, make_recipe
from weft.recipes.resolving import Drop, Merge, Resolver, Use
from weft.recipes.schema import parse_size

FULL = """
method: ties
base: ./base
models:
  - ./expert-a
  - path: ./expert-b
    name: b
    weight: 0.8
parameters:
  density: {b: 0.3, default: 0.2}
  scale: 1.5
rules:
  - match: "*classifier*"
    use: b
  - match: "re:.*layers\\\\.[0-7]\\\\..*"
    parameters: {density: 0.4, weight: {b: 0.5}}
  - match: ["*norm*", "*.bias"]
    method: linear
  - match: "*.inv_freq"
    use: drop
output: {dtype: bfloat16, shard_size: 5GB}
"""


def written(folder: Path, text: str) -> Path:
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        Resolver(load_recipe(written(folder, text)))
    return str(caught.value)


def parameters(action: object) -> dict[str, Any]:
    assert isinstance(action, Merge)
    return {"method": action.method.name, **action.method.method.model_dump()}


def test_the_recipe_of_the_documentation(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, FULL))
    resolver = Resolver(recipe)
    assert recipe.names == ("expert-a", "b")
    assert recipe.output.dtype == "bfloat16"
    assert recipe.output.shard_size == 5 * 10**9
    assert resolver.action("head.classifier.weight") == Use("b")
    assert resolver.action("rotary.inv_freq") == Drop()
    default = parameters(resolver.action("embed.weight"))
    assert (default["density"], default["weight"], default["scale"]) == ((0.2, 0.3), (1.0, 0.8), 1.5)
    early = parameters(resolver.action("model.layers.3.mlp.weight"))
    assert (early["density"], early["weight"], early["scale"]) == ((0.4, 0.4), (1.0, 0.5), 1.5)
    assert parameters(resolver.action("final_norm.weight"))["method"] == "linear"
    assert parameters(resolver.action("final_norm.weight"))["weight"] == (1.0, 0.8)
    assert parameters(resolver.action("model.layers.3.input_norm.weight"))["method"] == "ties", "the first match wins"


def test_every_layer_of_precedence() -> None:
    """Rule, per-model value, `parameters`, the method's default; each model on its own."""
    models = [{"path": "a", "density": 0.1}, {"path": "b"}, {"path": "c", "density": 0.3}]
    rules = [{"match": "x", "parameters": {"density": {"a": 0.9}}}]
    for common, expected in (
        ({}, (0.1, 0.2, 0.3)),
        ({"density": 0.5}, (0.1, 0.5, 0.3)),
        ({"density": {"b": 0.6}}, (0.1, 0.6, 0.3)),
    ):
        recipe = make_recipe({"method": "ties", "base": "o", "models": models, "parameters": common, "rules": rules})
        resolver = Resolver(recipe)
        assert parameters(resolver.action("y"))["density"] == expected
        assert parameters(resolver.action("x"))["density"] == (0.9, *expected[1:])


def test_stars_cross_dots_and_patterns_cover_the_whole_name() -> None:
    rules = [{"match": "model.*.weight", "use": "a"}, {"match": "re:head", "use": "a"}, {"match": "b[01]?", "use": "a"}]
    resolver = Resolver(make_recipe({"method": "linear", "models": ["a"], "rules": rules}))
    used = {
        name
        for name in ("model.x.y.weight", "my.model.x.weight", "head", "headers", "b0x", "b2x")
        if resolver.action(name) == Use("a")
    }
    assert used == {"model.x.y.weight", "head", "b0x"}


def test_names_are_made_distinct() -> None:
    recipe = make_recipe(
        {"method": "linear", "models": ["x/final", "y/final", "z/base", "m.safetensors", {"path": "p", "name": "q"}]}
    )
    assert recipe.names == ("final", "final-2", "base-3", "m", "q")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a recipe is a map"),
        ("- a", "a recipe is a map"),
        ("method: [", "not valid YAML"),
        ("method: ties\nmethod: linear", "the key 'method' is given twice"),
        ("models: [a]", "method is missing"),
        ("method: ties", "models is missing"),
        ("method: linear\nmodels: []", "models should not be empty"),
        ("method: linear\nmodels: a", "should be a list of models"),
        ("method: teis\nmodels: [a]", "there is no method 'teis'\n  -> did you mean 'ties'?"),
        ("methd: ties\nmodels: [a]", "unknown key 'methd'\n  -> did you mean 'method'?"),
        (
            "method: linear\nmodels: [a]\nparameters: {wieght: 1}",
            "linear has no parameter 'wieght'\n  -> did you mean 'weight'?",
        ),
        ("method: linear\nmodels: [{path: a, wieght: 1}]", "model 'a': linear has no parameter 'wieght'"),
        ("method: linear\nmodels: [{path: a, normalize: false}]", "normalize is one value for all models"),
        ("method: linear\nmodels: [a]\nparameters: {weight: {c: 1}}", "weight: no model is called 'c'"),
        ("method: linear\nmodels: [a]\nparameters: {weight: [1, 2]}", "weight: 2 value(s) for 1 model(s)"),
        ("method: linear\nmodels: [a]\nparameters: {weight: much}", "weight is 'much'; it should be a number"),
        ("method: linear\nmodels: [a]\nparameters: {weight: .nan}", "weight is nan; it should be a finite number"),
        ("method: linear\nmodels: [a, b]\nparameters: {weight: [1, -1]}", "the weights sum to 0"),
        (
            "method: ties\nmodels: [a]\nparameters: {density: 20}",
            "density is 20; it should be at most 1",
        ),
        ("method: ties\nmodels: [a]\nparameters: {scope: row}", "scope is 'row'; it should be 'model' or 'tensor'"),
        ("method: ties\nmodels: [a]\nparameters: {elect: mas}", "should be one of mass, frequency"),
        ("method: fisher\nmodels: [a]\nparameters: {weight: -1}", "weight is -1; it should be at least 0"),
        ("method: fisher\nmodels: [a]\nparameters: {weight: 0}", "all weights are 0"),
        ("method: linear\nmodels: [a]\nrules: [{match: x}]", "rules 1 says nothing"),
        ("method: linear\nmodels: [a]\nrules: [{match: [], use: a}]", "rules 1 match is empty"),
        ("method: linear\nmodels: [a]\nrules: [{match: x, use: a, method: ties}]", "`use` copies a tensor"),
        ("method: linear\nmodels: [a]\nrules: [{match: 're:(', use: a}]", "is not a regular expression"),
        ("method: linear\nmodels: [a]\nrules: [{match: x, use: base}]", "use: 'base' is not a model of this recipe"),
        ("method: linear\nmodels: [exprt]\nrules: [{match: x, use: expert}]", "did you mean 'exprt'?"),
        (
            "method: linear\nmodels: [a]\nrules: [{match: x, methd: ties}]",
            "unknown key 'methd' in rules 1\n  -> did you mean 'method'?",
        ),
        (
            "method: linear\nmodels: [a]\nrules: [{match: x, parameters: {density: 1}}]",
            "rule 'x': linear has no parameter 'density'",
        ),
        ("method: linear\nmodels: [a]\noutput: {dtype: int8}", "'int8' is not a floating-point format"),
        ("method: linear\nmodels: [a]\noutput: {dtype: bf16}", "'bf16' is not known\n  -> did you mean 'bfloat16'?"),
        ("method: linear\nmodels: [a]\noutput: {shard_size: huge}", "'huge' is not a size"),
        ("method: linear\nmodels: [a]\noutput: {shard_size: 0}", "should be more than 0"),
        (
            "method: linear\nmodels: [{model: a}]",
            "models number 1 has no `path`, only model\n  -> write `- path: FOLDER`",
        ),
        ("merge_method: linear\nmodels: [a]", "unknown key 'merge_method'\n  -> write `method:`"),
        ("method: ties\nmodels: [a]\nbase_model: b", "unknown key 'base_model'\n  -> write `base:`"),
        ("method: linear\nmodels: [a]\ndtype: bfloat16", "unknown key 'dtype'\n  -> write `output: {dtype: ...}`"),
        ("method: TIES\nmodels: [a]", "did you mean 'ties'?"),
        ("method: ties\nmodels: [a]\nparameters: {density: yes}", "density is True; it should be a number, not true"),
        ("method: ties\nmodels: [a]\nrules: all", "rules should be a list"),
        ("method: linear\nmodels: [{path: a, name: x}, {path: b, name: x}]", "two models are called 'x'"),
        ("method: linear\nmodels: [{path: a, name: drop}]", "a model cannot be called 'drop'"),
    ],
)
def test_slips_of_the_pen(tmp_path: Path, text: str, says: str) -> None:
    assert says in complaint(tmp_path, text)


def test_several_slips_are_told_at_once(tmp_path: Path) -> None:
    text = complaint(tmp_path, "method: ties\nmodels: [a, b]\nparameters: {density: {a: 2, b: -1}, scope: row}")
    assert text.startswith("3 problems:")
    assert "density of model 'b' is -1" in text


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("256MB", 256 * 10**6),
        ("2GiB", 2**31),
        ("1.5kB", 1500),
        ("3 M", 3 * 10**6),
        ("1g", 10**9),
        (5, 5),
        ("7B", 7),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "1e9", "five"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example"):
        parse_size(text)
