"""What stands beside models whose rows `vocabulary:` changes: it follows the rows of the model that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft

WIDTH = 3


def rows(count: int, begin: float = 1.0) -> np.ndarray:
    """Rows that tell which they are."""
    return np.outer(np.arange(begin, begin + count), np.ones(WIDTH)).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, count, scale in (("base", 4, 1), ("a", 4, 4), ("b", 6, 2)):
        save_file({"embed": rows(count) * scale}, tmp_path / f"{name}.safetensors")
    return tmp_path


def merged(place: Path, **recipe: Any) -> np.ndarray:
    models = ["a.safetensors", "b.safetensors"]
    weft.merge_to({"models": models, "vocabulary": "pad", "folder": place, **recipe}, place / "out.safetensors")
    return load_file(place / "out.safetensors")["embed"]


def test_signs_for_all_models_have_the_rows_of_the_base(place: Path) -> None:
    """Of rows that the base did not have nobody elected a sign: nothing is added to what was lent."""
    save_file({"embed": np.ones((4, WIDTH), np.float32)}, place / "signs.safetensors")
    parameters = {"elect": "signs.safetensors", "density": 1.0}
    result = merged(place, method="ties", base="base.safetensors", parameters=parameters)
    assert np.array_equal(result, np.concatenate([rows(4) * 3, rows(2, 5.0) * 2]))


def test_one_file_for_models_of_different_rows_is_refused_where_it_does_not_fit(place: Path) -> None:
    """It is adapted for the model that it fits, and not by mistake for the other."""
    save_file({"embed": np.ones((4, WIDTH), np.float32)}, place / "f.safetensors")
    with pytest.raises(weft.InputError) as caught:
        merged(place, method="fisher", parameters={"fisher": "f.safetensors"})
    assert str(caught.value) == (
        f"fisher of model 'b' ({place / 'f.safetensors'}): tensor 'embed' is float32 [4, 3], "
        "the models have float32 [6, 3]\n  -> it belongs to another model"
    )


def test_a_file_for_each_follows_its_model(place: Path) -> None:
    """Three parts of a to one of b; of the rows that b lends, a knows nothing."""
    save_file({"embed": np.full((4, WIDTH), 3, np.float32)}, place / "f.safetensors")
    save_file({"embed": np.ones((6, WIDTH), np.float32)}, place / "g.safetensors")
    fisher = {"a": "f.safetensors", "b": "g.safetensors"}
    result = merged(place, method="fisher", parameters={"fisher": fisher, "normalize": False, "floor": 0.0})
    assert np.array_equal(result, np.concatenate([rows(4) * 3.5, rows(2, 5.0) * 2]))


@pytest.mark.parametrize("kind", ["gradient", "importance"])
def test_what_is_about_the_base_follows_the_base(place: Path, kind: str) -> None:
    """Of b with six rows the gradient at the base has four. Importances 0 and ln 3 are weights 1/2 and 3/2."""
    b = np.ones((4, WIDTH), np.float32) if kind == "gradient" else np.array(30.0, np.float32)
    save_file({"embed": np.zeros_like(b)}, place / "f.safetensors")
    save_file({"embed": b}, place / "g.safetensors")
    parameters = {kind: {"a": "f.safetensors", "b": "g.safetensors"}, "drop": 0.0, "weight_temperature": 30 / np.log(3)}
    result = merged(place, method="apl", base="base.safetensors", parameters=parameters)
    np.testing.assert_allclose(result, np.concatenate([rows(4) * 4, rows(2, 5.0) * 2]), rtol=1e-6)
