"""Everything that people do wrong, and what they are told: at once, by name, with a remedy, before anything is written.

Each mistake is planted in an otherwise sound folder and met through the command line. `weft plan` must tell the same
of all that can be known without reading weights.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import weft
from tests.mistakes import in_files, in_outputs, in_recipes, in_tensors
from tests.mistakes.planting import MERGE, Mistake, edit, json_in, put, saved, together, without
from weft.cli.app import app

MISTAKES = (*in_recipes.ALL, *in_files.ALL, *in_tensors.ALL, *in_outputs.ALL)
QUANTISED = {"quant_method": "gptq", "bits": 4}
EARLY = tuple(mistake for mistake in MISTAKES if mistake.known_early)


def each(mistakes: tuple[Mistake, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mistake", mistakes, ids=lambda mistake: mistake.name.replace(" ", "-"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def everything(place: Path) -> dict[str, bytes | str]:
    """Every file and folder below a folder, hidden ones too, with what is in them."""
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(place):
        found |= {os.path.join(folder, name): "" for name in folders}
        found |= {path: _content(Path(path)) for path in (os.path.join(folder, name) for name in files)}
    return found


def _content(path: Path) -> bytes | str:
    return os.readlink(path) if path.is_symlink() else path.read_bytes()


def check_told(mistake: Mistake, done: Result) -> None:
    assert done.exit_code == mistake.code, done.output
    assert done.stdout == ""
    for phrase in (*mistake.says, mistake.remedy):
        assert phrase in done.stderr


def test_there_are_many_and_each_is_another() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 40


@each(MISTAKES)
def test_it_is_told_and_nothing_is_written(place: Path, mistake: Mistake) -> None:
    mistake.prepare(place)
    before = everything(place)
    done = typed(*mistake.command)
    check_told(mistake, done)
    assert everything(place) == before


@each(EARLY)
def test_a_plan_tells_it_too(place: Path, mistake: Mistake) -> None:
    mistake.prepare(place)
    before = everything(place)
    check_told(mistake, typed("plan", "recipe.yaml"))
    assert everything(place) == before


@each(EARLY)
def test_each_problem_has_a_remedy(place: Path, mistake: Mistake) -> None:
    """As those who show problems elsewhere receive them."""
    mistake.prepare(place)
    problems = json.loads(typed("plan", "recipe.yaml", "--json").stdout)["problems"]
    assert problems
    assert all(problem["what"] and problem["remedy"] for problem in problems)


def test_sound_models_merge(place: Path) -> None:
    """Or the mistakes would prove nothing."""
    Mistake("none", (), "").prepare(place)
    assert typed("plan", "recipe.yaml").exit_code == 0
    assert typed(*MERGE).exit_code == 0


class TestSeveralAtOnce:
    """What is wrong in one place never hides what is wrong in another."""

    def told(self, place: Path, mistake: Mistake, *command: str) -> list[str]:
        """The problems, as JSON gives them; each has a remedy, and nothing is written."""
        mistake.prepare(place)
        before = everything(place)
        done = typed(*(command or MERGE), "--json")
        assert done.exit_code == mistake.code
        assert everything(place) == before
        problems = json.loads(done.stdout)["problems"]
        assert all(problem["remedy"] for problem in problems)
        return [problem["what"] for problem in problems]

    def test_in_what_is_written(self, place: Path) -> None:
        recipe = {"method": None, "base_model": "base", "output": {"dtyp": "bfloat16"}, "colour": "red"}
        told = self.told(place, Mistake("keys", (), "", recipe))
        assert [text.removeprefix("recipe.yaml: ") for text in told] == [
            "method is missing",
            "unknown key 'dtyp' in output",
            "unknown key 'base_model'",
            "unknown key 'colour'",
        ]

    def test_in_parameters(self, place: Path) -> None:
        recipe = {
            "models": ["a", {"path": "b", "wieght": 2}],
            "parameters": {"density": 0.5},
            "rules": [{"match": "head", "parameters": {"scale": 2}}],
        }
        told = self.told(place, Mistake("parameters", (), "", recipe))
        assert [text.split(":")[0] for text in told] == ["parameters", "rule 'head'", "model 'b'"]

    def test_in_files(self, place: Path) -> None:
        plant = together(
            lambda here: (here / "base" / "model.safetensors").write_bytes(in_files.POINTER),
            lambda here: (here / "a" / "config.json").write_text(json.dumps({"quantization_config": QUANTISED})),
            lambda here: shutil.rmtree(here / "b"),
        )
        told = self.told(place, Mistake("files", (), "", {}, plant))
        expected = [
            "base/model.safetensors: this is a Git LFS pointer",
            "model 'a': a: is quantised with GPTQ",
            "model 'b': b: no such file or folder",
        ]
        assert len(told) == 3
        assert all(phrase in text for phrase, text in zip(expected, told, strict=True))

    def test_in_tensors_and_what_stands_beside_them(self, place: Path) -> None:
        plant = together(
            put("b", embed=np.ones((7, 3), np.float32), extra=np.ones(2, np.float32)),
            put("b", bn__num_batches_tracked=np.array(8)),
            edit("a", lambda held: held.update(head=held["head"].astype(np.int64))),
            without("a", "layers.0.weight"),
            saved("f.safetensors", {"layers.0.weight": np.ones((3, 3), np.float32)}, norm="much"),
        )
        recipe = {"method": "fisher", "models": ["a", {"path": "b", "fisher": "f.safetensors"}]}
        told = "\n".join(self.told(place, Mistake("tensors", (), "", {**recipe, "base": None}, plant)))
        for phrase in (
            "tensor 'embed' has shape",
            "tensor 'extra' is in model 'b' but missing from",
            "tensor 'bn.num_batches_tracked' (int64 []) is not a float",
            "tensor 'head' is int64 in model 'a' but float32 in model 'b'",
            "tensor 'layers.0.weight' is in model 'b' but missing from",
            "fisher of model 'b' (f.safetensors) has no tensor 'layers.1.weight'",
            "its metadata say norm = 'much'",
        ):
            assert phrase in told

    def test_in_vocabularies_and_other_tensors(self, place: Path) -> None:
        plant = together(
            put("b", embed=np.ones((7, 3), np.float32), head=np.ones((7, 3), np.float32), extra=np.ones(2, np.float32)),
            put("b", bn__num_batches_tracked=np.array(8)),
            *(json_in(f"{m}/config.json", {"vocab_size": 7 if m == "b" else 5}) for m in ("base", "a", "b")),
        )
        told = self.told(place, Mistake("vocabulary", (), "", {}, plant))
        assert [text.partition(" differ")[0].partition(" is ")[0] for text in told] == [
            "the vocabularies",
            "tensor 'bn.num_batches_tracked' (int64 [])",
            "tensor 'extra'",
        ]

    def test_in_a_union_and_other_tensors(self, place: Path) -> None:
        plant = together(
            put("b", embed=np.ones((7, 3), np.float32), head=np.ones((7, 3), np.float32)),
            put("b", bn__num_batches_tracked=np.array(8)),
            *(json_in(f"{m}/config.json", {"vocab_size": 7 if m == "b" else 5}) for m in ("base", "a", "b")),
        )
        told = self.told(place, Mistake("union", (), "", {"vocabulary": "union"}, plant))
        assert len(told) == 4
        assert all("vocabulary: union needs the tokenizer.json of every input" in text for text in told[:3])
        assert told[3].startswith("tensor 'bn.num_batches_tracked'")


class TestTheMachine:
    """What is wrong with neither recipe nor models."""

    def test_a_disk_that_is_too_full(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Mistake("none", (), "").prepare(place)
        before = everything(place)
        usage = shutil.disk_usage(place)._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        for command in (MERGE, ("plan", "recipe.yaml", "-o", "out")):
            done = typed(*command)
            assert done.exit_code == 2
            assert "but the disk of out has 0.00 GB free\n  -> free some space, or choose" in done.stderr
        assert everything(place) == before

    def test_a_disk_that_fills_on_the_way(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        Mistake("none", (), "").prepare(place)
        before = everything(place)
        monkeypatch.setattr(os, "pwrite", full)
        done = typed(*MERGE)
        assert done.exit_code == 1
        assert "error: cannot write out: No space left on device" in done.stderr
        assert everything(place) == before

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, place: Path) -> None:
        Mistake("none", (), "").prepare(place)
        (place / "b" / "model.safetensors").chmod(0)
        done = typed(*MERGE)
        assert done.exit_code == 2
        assert "b/model.safetensors: Permission denied\n  -> check the path and the permissions" in done.stderr


def test_python_is_told_the_same(place: Path) -> None:
    mistake = next(mistake for mistake in MISTAKES if mistake.name == "two shapes")
    mistake.prepare(place)
    with pytest.raises(weft.InputError) as caught:
        weft.plan("recipe.yaml")
    assert [problem.remedy for problem in caught.value.problems] == [
        "merge models of one architecture, or add a rule with `use:` for this tensor"
    ]
    with pytest.raises(weft.InputError) as again:
        weft.merge_to("recipe.yaml", "out")
    assert str(again.value) == str(caught.value)
    assert f"error: {again.value}\n" == typed(*MERGE).stderr
