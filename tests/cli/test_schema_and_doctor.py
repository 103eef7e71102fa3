"""The schema that editors use, and what the doctor finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cli.running import run
from tests.recipes.test_recipes import FULL
from weft.engine.record import recipe_text
from weft.recipes.schema import Recipe


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads(run(Path.cwd(), "schema").stdout)


def test_the_schema_accepts_the_recipe_of_the_documentation(schema: dict) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(FULL), schema)


@pytest.mark.parametrize("where", [lambda step: step, lambda step: {"rules": [{"match": "x", **step}]}])
@pytest.mark.parametrize(
    "step",
    [
        {"before": "dare"},
        {"before": {"method": "dare", "drop": {"b": 0.3}, "mask": {"b": "m.safetensors"}}},
        {"before": "none", "after": "svc"},
        {"before": None, "after": "none"},
    ],
)
def test_the_schema_accepts_steps_before_and_after(schema: dict, step: dict, where: Callable[[dict], dict]) -> None:
    jsonschema.validate(yaml.safe_load(FULL) | where(step), schema)


def test_the_schema_accepts_what_a_merge_records(schema: dict) -> None:
    rules = [{"match": "x", "before": "none", "parameters": {"scope": "tensor"}}, {"match": "y", "use": "base"}]
    recipe = Recipe(method="ties", base="o", models=["a"], before="dare", after="svc", rules=rules)
    jsonschema.validate(yaml.safe_load(recipe_text(recipe)), schema)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "teis"},
        {"modles": []},
        {"parameters": {"densty": 0.2}},
        {"parameters": {"density": 20}},
        {"parameters": {"density": {"b": -1}}},
        {"models": [{"path": "a", "wieght": 1}]},
        {"rules": [{"match": "x", "method": "tise"}]},
        {"output": {"dtpye": "bfloat16"}},
        {"before": {"method": "dare", "nonsense": 1}},
        {"before": {"method": "dare", "drop": 2}},
        {"before": {"method": "dare", "scale": 2}},
        {"before": {"drop": 0.5}},
        {"before": "ties"},
        {"after": "dare"},
        {"rules": [{"match": "x", "before": {"method": "dare", "nonsense": 1}}]},
    ],
)
def test_the_schema_refuses_slips_of_the_pen(schema: dict, change: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(FULL) | change, schema)


def test_the_doctor(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "doctor", "--json").stdout)
    assert found["installed"]["numba"] != "missing"
    assert "written and synced" in found["disk"]
    assert list(tmp_path.iterdir()) == []
    assert "threads" in run(tmp_path, "doctor").stdout
    assert "No such file" in run(tmp_path, "doctor", "nowhere", code=2).stderr
