"""Mistakes that can only be made in Python, and warnings about what an output cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft
from tests.mistakes.planting import Mistake, saved
from weft.engine.inputs import open_inputs
from weft.recipes.loading import make_recipe
from weft.recipes.schema import Recipe

W = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("name", "says"),
    [(1, "model 'b': the tensor name 1 is a int"), (("a", 0), "model 'b': the tensor name ('a', 0) is a tuple")],
)
def test_names_of_tensors_that_are_no_text(name: Any, says: str) -> None:
    with pytest.raises(weft.InputError) as caught:
        weft.merge({"a": {"w": W}, "b": {name: W}})
    assert str(caught.value) == f"{says}\n  -> name tensors by text, as state dicts do"


def test_a_module_of_fused_experts_and_files_of_single_ones() -> None:
    many = {f"layers.0.mlp.experts.{e}.{k}_proj.weight": W.copy() for e in range(4) for k in ("gate", "up", "down")}
    one = {"layers.0.mlp.experts.gate_up_proj": np.ones((4, 4, 3), np.float32)}
    with pytest.raises(weft.InputError) as caught:
        weft.merge({"a": {"norm": W, **many}, "b": {"norm": W, **one}})
    assert str(caught.value) == (
        "model 'b' holds the experts of a layer in one tensor, model 'a' one by one: "
        "'layers.0.mlp.experts.gate_up_proj' is float32 [4, 4, 3] in model 'b', "
        "'layers.0.mlp.experts.0.gate_proj.weight' and 3 like it are float32 [2, 3] in model 'a'\n"
        "  -> load both with one version of transformers and save them with save_pretrained, which writes one layout; "
        "`rename` cannot stack tensors"
    )


def test_other_tensors_that_are_missing_are_still_told_one_by_one() -> None:
    many = {f"layers.0.experts.{e}.weight": W.copy() for e in range(4)}
    one = {"layers.0.experts.weight": np.ones((4, 2, 3), np.float32)}
    with pytest.raises(weft.InputError) as caught:
        weft.merge({"a": {"norm": W, "head": W.copy(), **many}, "b": {"norm": W, **one}})
    first, second = (problem.what for problem in caught.value.problems)
    assert first.startswith("model 'b' holds the experts of a layer in one tensor")
    assert second == "tensor 'head' is in model 'a' but missing from model 'b'"


@pytest.mark.parametrize("shape", [(3, 2, 3), (4, 3), (4, 2, 3, 1)])
def test_shapes_that_do_not_fit_are_no_stacks(shape: tuple[int, ...]) -> None:
    many = {f"layers.0.experts.{e}.weight": W.copy() for e in range(4)}
    one = {"layers.0.experts.weight": np.ones(shape, np.float32)}
    with pytest.raises(weft.InputError) as caught:
        weft.merge({"a": {"norm": W, **many}, "b": {"norm": W, **one}})
    assert len([p for p in caught.value.problems if "is in model 'a' but missing from model 'b'" in p.what]) == 4


class TestAnOutputThatCannotSayItsVocabulary:
    def told(self, recipe: Recipe, target: Path | None) -> list[str]:
        inputs = open_inputs(recipe)
        try:
            return list(inputs.unwritten(target))
        finally:
            inputs.close()

    def padded(self, place: Path, policy: str | None = "pad") -> Recipe:
        """A base of five rows and a model of seven."""
        Mistake("none", (), "").prepare(place)
        saved("b/model.safetensors", {"embed": np.ones((7, 3), np.float32)})(place)
        return make_recipe(
            {"method": "linear", "base": "base", "models": ["a", "b"], "vocabulary": policy, "folder": place}
        )

    def test_a_lone_file(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        assert self.told(self.padded(tmp_path), target) == [
            f"the vocabulary of {target} has 7 rows, but there is no config.json and no tokenizer beside it to say so: "
            "change those that the model is used with"
        ]

    def test_in_memory(self, tmp_path: Path) -> None:
        (text,) = self.told(self.padded(tmp_path), None)
        assert text.startswith("the vocabulary of the output has 7 rows, but there is no config.json")

    def test_a_folder_of_a_base_without_one(self, tmp_path: Path) -> None:
        model = {"embed": np.ones((7, 3), np.float32)}
        recipe = make_recipe({"method": "linear", "base": {"embed": W}, "models": [model], "vocabulary": "pad"})
        (text,) = self.told(recipe, tmp_path / "out")
        assert text.startswith(f"the vocabulary of {tmp_path / 'out'} has 7 rows, but")

    def test_a_folder_says_it(self, tmp_path: Path) -> None:
        assert self.told(self.padded(tmp_path), tmp_path / "out") == []

    def test_nothing_changed(self, tmp_path: Path) -> None:
        assert self.told(self.padded(tmp_path, "base"), None) == []
