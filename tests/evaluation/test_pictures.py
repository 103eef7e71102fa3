"""Pictures are opened when they are looked at, and tell what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.models import jsonl, linear_head, vit
from tests.evaluation.test_predicting import ask, refused
from weft.errors import InputError
from weft.evaluation.data import examples
from weft.evaluation.loading import make_task
from weft.evaluation.pictures import Picture

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The same pictures as files, as a data set, and as the file that the Hub makes of a data set."""
    import datasets

    for k, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    jsonl(tmp_path / "test.jsonl", [{"image": f"{k}.png", "label": k % 2} for k in range(4)])
    rows = {"image": [str(tmp_path / f"{k}.png") for k in range(4)], "label": [k % 2 for k in range(4)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "set/test.parquet")
    return tmp_path


def parts(**data: str) -> dict[str, Any]:
    return {"name": "x", "kind": "image-classification", "data": data}


@pytest.mark.parametrize("source", ["files", "hub", "parquet"])
def test_pictures_wait_until_they_are_looked_at(place: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
    data = {"hub": str(place / "set")} if source == "hub" else {"folder": str(place / ("set" * (source == "parquet")))}
    with monkeypatch.context() as closed:
        closed.setattr("PIL.Image.open", None)
        found = examples(make_task(parts(**data)), "test")
        pictures = found.pictures("image")
    assert found.names == (("a", "b") if source == "hub" else ())
    assert found.values("label") == [0, 1, 0, 1]
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert [np.array_equal(np.asarray(p.opened()), pixels) for p, pixels in zip(pictures, PIXELS, strict=True)] == [
        True
    ] * 4


def test_another_picture_under_the_same_name_is_another_example(place: Path) -> None:
    before = examples(make_task(parts(folder=str(place))), "test").digest
    assert examples(make_task(parts(folder=str(place))), "test").digest == before
    Image.fromarray(PIXELS[0] // 2).save(place / "2.png")
    assert examples(make_task(parts(folder=str(place))), "test").digest != before


def test_what_is_no_picture(place: Path) -> None:
    path, head = vit(place / "m", 0), linear_head(place / "h.safetensors", 2, 0)
    asked = {"kind": "image-classification", "head": str(head)}
    assert len(ask(path, place, **asked).scores) == 4
    jsonl(place / "test.jsonl", [{"image": 3, "label": 0}])
    assert refused(path, place, **asked) == (
        f"task x: {place}/test.jsonl: image of example 1 is 3, not a picture\n"
        "  -> name the column that holds pictures, or names of their files, in `columns`"
    )
    jsonl(place / "test.jsonl", [{"image": "none.png", "label": 0}])
    assert f"task x: {place}/none.png: no such file" in refused(path, place, **asked)
    (place / "torn.png").write_bytes((place / "0.png").read_bytes()[:90])
    jsonl(place / "test.jsonl", [{"image": "torn.png", "label": 0}])
    assert refused(path, place, **asked).startswith(f"task x: {place}/torn.png: ")


def test_a_picture_that_went_away(place: Path) -> None:
    (picture, *_) = examples(make_task(parts(folder=str(place))), "test").pictures("image")
    (place / "0.png").unlink()
    with pytest.raises(InputError, match=r"0.png: No such file"):
        picture.opened()
