"""Where results and pages may go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.errors import InputError
from weft.evaluation.outputs import PAGE_MARK, check_output, is_page, is_results


def check(path: Path, *inputs: Path, overwrite: bool = False) -> None:
    check_output(path, inputs=inputs, is_ours=is_page, what="a page", overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    """Not by its name, not by another name for it, and not even if it looks like a page."""
    (tmp_path / "r.json").write_text("{}")
    (tmp_path / "link").symlink_to("r.json")
    (tmp_path / "hard").hardlink_to(tmp_path / "r.json")
    (tmp_path / "page.html").write_text(PAGE_MARK)
    for name in ("r.json", "link", "hard"):
        with pytest.raises(InputError, match=rf"the output .*{name} is an input"):
            check(tmp_path / name, tmp_path / "r.json", overwrite=overwrite)
    with pytest.raises(InputError, match=r"page.html is an input"):
        check(tmp_path / "page.html", tmp_path / "page.html", overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_nor_is_a_file_of_an_input_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "model/deep").mkdir(parents=True)
    (tmp_path / "model/deep/w.safetensors").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"w.safetensors is a file of the input .*model"):
        check(tmp_path / "model/deep/w.safetensors", tmp_path / "model", overwrite=overwrite)
    check(tmp_path / "model/new.html", tmp_path / "model")
    (tmp_path / "model/old.html").write_text(PAGE_MARK)
    check(tmp_path / "model/old.html", tmp_path / "model")


def test_only_our_own_is_replaced_unasked(tmp_path: Path) -> None:
    for content in (b"", b"mine", b"\xff\xfe\x00", PAGE_MARK.encode()[:-1]):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(InputError, match="exists and is not a page") as caught:
            check(tmp_path / "x")
        assert "--overwrite" in str(caught.value)
        check(tmp_path / "x", overwrite=True)
    (tmp_path / "x").write_text(f"<!doctype html>{PAGE_MARK}")
    check(tmp_path / "x")


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, what in {
        "no/where/x": "no/where: no such folder", ".": "is not a file", "file/x": "file is a file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=what):
            check(tmp_path / name, overwrite=True)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_inputs_that_are_not_files_are_passed_over(tmp_path: Path) -> None:
    check(tmp_path / "x", Path("FacebookAI/roberta-base"))
    (tmp_path / "x").write_text(PAGE_MARK)
    check(tmp_path / "x", Path("FacebookAI/roberta-base"))


@pytest.mark.parametrize(
    ("content", "ours"),
    [(json.dumps({"tasks": [], "rows": [], "split": "test"}), True), ("{}", False), ("[]", False), ("{", False)],
)
def test_results_are_recognised(tmp_path: Path, content: str, ours: bool) -> None:
    (tmp_path / "r.json").write_text(content)
    assert is_results(tmp_path / "r.json") == ours
    assert not is_results(tmp_path / "none.json")
