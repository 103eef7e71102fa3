"""The command line, as a person or a pipeline sees it: what is printed where, and with which exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from tests.cli.running import W, run
from weft.engine.journal import holds_work


def test_a_merge_from_arguments(models: Path) -> None:
    done = run(
        models,
        "merge",
        "-m",
        "task_arithmetic",
        "-b",
        "base",
        "a",
        "b",
        "-o",
        "out",
        "-p",
        "scale=0.5",
        "-p",
        "weight={b: 2}",
    )
    assert done.stdout.startswith("out  task_arithmetic, 2 merged, 48 B in model.safetensors, ")
    assert done.stderr.startswith("merging: ")
    merged = load_file(models / "out" / "model.safetensors")
    assert np.allclose(merged["w"], W + 0.5 * (1 + 2 * 2))
    assert json.loads((models / "out" / "config.json").read_text()) == {"of": "base"}


def test_a_merge_from_a_recipe(models: Path) -> None:
    (models / "recipes").mkdir()
    recipe = "method: linear\nmodels: [../a, {path: ../b, weight: 3}]\nrules: [{match: head, use: a}]\n"
    (models / "recipes" / "r.yaml").write_text(recipe)
    run(models, "merge", "recipes/r.yaml", "-o", "out.safetensors", "--quiet")
    merged = load_file(models / "out.safetensors")
    assert np.allclose(merged["w"], W + 1.75)
    assert np.array_equal(merged["head"], -W - 1)


def test_the_recipe_lies_in_the_output_and_can_be_run_again(models: Path) -> None:
    run(models, "merge", "-m", "ties", "-b", "base", "a", "b", "-o", "out", "-p", "density=0.5")
    record = weft.load_recipe(models / "out" / "weft_recipe.yaml")
    assert (record.method, record.names) == ("ties", ("a", "b"))
    assert record.parameters == {
        "density": 0.5, "weight": 1.0, "scale": 1.0, "scope": "model", "trim": "magnitude", "elect": "mass",
        "combine": "mean", "deviations": 1.0,
    }  # fmt: skip
    run(models / "a", "merge", "../out/weft_recipe.yaml", "-o", "../twice")
    assert (models / "twice" / "model.safetensors").read_bytes() == (models / "out" / "model.safetensors").read_bytes()


def test_json(models: Path) -> None:
    done = run(models, "merge", "-m", "linear", "a", "b", "-o", "out", "--json", "--dtype", "bfloat16")
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert report["ok"] is True
    assert (report["output"], report["merged"], report["write_bytes"]) == ("out", 2, 24)


def test_bad_input_is_exit_code_2_and_nothing_is_written(models: Path) -> None:
    done = run(models, "merge", "-m", "ties", "a", "c", "-o", "out", code=2)
    assert done.stdout == ""
    assert "error: model 'c': c: no such file or folder" in done.stderr
    assert sorted(p.name for p in models.iterdir()) == ["a", "b", "base"]


def test_bad_input_as_json(models: Path) -> None:
    done = run(models, "merge", "-m", "tise", "a", "-o", "out", "--json", code=2)
    assert json.loads(done.stdout) == {
        "ok": False,
        "problems": [{"what": "there is no method 'tise'", "remedy": "did you mean 'ties'?"}],
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b"], "give one recipe that ends in .yaml, or models and a method"),
        (["r.yaml", "-m", "ties"], "-m does not go with a recipe (r.yaml)"),
        (["r.yaml", "-b", "base"], "-b does not go with a recipe"),
        (["r.yaml", "-p", "scale=1"], "-p does not go with a recipe"),
        (["-m", "linear", "a", "-p", "weight"], "not of the form NAME=VALUE"),
        (["-m", "linear", "a", "-p", "weight=[1"], "-p weight=[1: "),
        (["-m", "linear", "a", "-p", "weight=1", "-p", "weight=2"], "given twice"),
        (["-m", "linear", "a", "--memory", "lots"], "memory: 'lots' is not a size"),
        (["-m", "linear", "a", "--dtype", "f16"], "output dtype 'f16' is not known"),
    ],
)
def test_usage(models: Path, arguments: list[str], says: str) -> None:
    assert says in run(models, "merge", *arguments, "-o", "out", code=2).stderr


def test_an_existing_output_is_refused_unless_asked_for(models: Path) -> None:
    run(models, "merge", "-m", "linear", "a", "-o", "out")
    assert "out exists" in run(models, "merge", "-m", "linear", "b", "-o", "out", code=2).stderr
    assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], W + 1)
    run(models, "merge", "-m", "linear", "b", "-o", "out", "--overwrite")
    assert sorted(p.name for p in (models / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "weft.lock.json",
        "weft_recipe.yaml",
    ]
    assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], W + 2)


@pytest.mark.parametrize("output", ["a", "./a/../a", ".", "a/model.safetensors", "a/again.safetensors"])
def test_an_output_that_is_an_input_is_always_refused(models: Path, output: str) -> None:
    (models / "a" / "again.safetensors").write_bytes((models / "a" / "model.safetensors").read_bytes())
    before = (models / "a" / "again.safetensors").read_bytes()
    done = run(models, "merge", "-m", "linear", "a", "-o", output, "--overwrite", code=2)
    assert "is, contains or lies in the input" in done.stderr
    assert (
        (models / "a" / "model.safetensors").read_bytes() == before == (models / "a" / "again.safetensors").read_bytes()
    )


def test_a_folder_with_something_else_in_it_is_never_overwritten(models: Path) -> None:
    run(models, "merge", "-m", "linear", "a", "-o", "out")
    (models / "out" / "data").mkdir()
    (models / "out" / "data" / "notes.txt").write_text("")
    done = run(models, "merge", "-m", "linear", "a", "-o", "out", "--overwrite", code=2)
    assert "out holds what no merge wrote and --overwrite would delete: data/notes.txt" in done.stderr
    assert (models / "out" / "data" / "notes.txt").exists()


def test_weights_that_no_merge_wrote_are_never_overwritten(models: Path) -> None:
    done = run(models, "merge", "-m", "linear", "a", "-o", "b", "--overwrite", code=2)
    assert "b holds what no merge wrote and --overwrite would delete: config.json, model.safetensors" in done.stderr


def test_an_input_behind_a_link_is_never_overwritten(models: Path) -> None:
    (models / "store").mkdir()
    (models / "a" / "model.safetensors").rename(models / "store" / "blob.safetensors")
    (models / "a" / "model.safetensors").symlink_to(models / "store" / "blob.safetensors")
    before = (models / "store" / "blob.safetensors").read_bytes()
    run(models, "merge", "-m", "linear", "a", "b", "-o", "store/blob.safetensors", "--overwrite", code=2)
    assert (models / "store" / "blob.safetensors").read_bytes() == before


def test_an_output_behind_a_link(models: Path) -> None:
    run(models, "merge", "-m", "linear", "a", "-o", "out")
    (models / "link").symlink_to("out")
    for _ in range(2):
        run(models, "merge", "-m", "linear", "b", "-o", "link", "--overwrite")
    assert (models / "link").is_symlink()
    assert np.array_equal(load_file(models / "out" / "model.safetensors")["w"], W + 2)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("a/config.json/x", "is a file"),
        ("out.bin", "would not be a .bin file"),
        ("out.yaml", "would not be a .yaml file"),
        ("folder.safetensors", "exists and is a folder"),
    ],
)
def test_an_output_that_cannot_be(models: Path, output: str, says: str) -> None:
    (models / "folder.safetensors").mkdir()
    assert says in run(models, "merge", "-m", "linear", "b", "-o", output, "--overwrite", code=2).stderr


def test_sigterm_keeps_what_is_done(tmp_path: Path) -> None:
    interrupted(tmp_path, signal.SIGTERM)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    interrupted(tmp_path, signal.SIGINT)


def _heeds_interrupts() -> None:
    """What runs in the background of a shell inherits deafness to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(tmp_path: Path, number: int) -> None:
    """Sent as soon as the merge says that it runs; with 1.6 GB to look at several times it is not over by then."""
    save_file({"w": np.zeros(40_000_000, np.float32)}, tmp_path / "a.safetensors")
    models = ["a.safetensors"] * 9
    command = [sys.executable, "-u", "-m", "weft", "merge", "-m", "ties", "-b", "a.safetensors", *models, "-o", "out"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_heeds_interrupts)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("merging: ")
    child.send_signal(number)
    said = child.communicate()[1]
    kept = "What was done is kept beside the output: the same command goes on"
    assert f"interrupted\n{kept if holds_work(tmp_path / 'out') else 'Nothing was finished that could be kept'}" in said
    assert child.returncode == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.weft-staging", "a.safetensors"]
    assert ".out.weft-staging" in run(tmp_path, "clean", "--yes").stdout
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert "nothing to remove" in run(tmp_path, "clean").stdout


def test_a_full_disk_is_told_before(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(weft.InputError, match=r"the output needs .* but .* free"):
        weft.merge_to({"method": "linear", "models": [models / "a"]}, models / "out")


def test_methods() -> None:
    listed = run(Path.cwd(), "methods").stdout
    assert all(name in listed for name in weft.methods())
    shown = run(Path.cwd(), "methods", "ties").stdout
    assert "Yadav et al. 2023" in shown
    assert "density" in shown
    described = json.loads(run(Path.cwd(), "methods", "fisher", "--json").stdout)
    assert [p["name"] for p in described[0]["parameters"]] == ["fisher", "weight", "normalize", "floor", "favor_target"]
    assert "did you mean 'fisher'?" in run(Path.cwd(), "methods", "fischer", code=2).stderr


def test_version() -> None:
    assert run(Path.cwd(), "--version").stdout == f"weft {weft.__version__}\n"


def test_a_merge_of_files_never_imports_torch(models: Path) -> None:
    program = (
        "import sys\nfrom weft.cli.app import app\n"
        "try: app(['merge', '-m', 'ties', '-b', 'base', 'a', 'b', '-o', 'out', '-q'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=models, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["methods", "--help"], ["verify", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom weft.cli.app import app\n"
        f"try: app({arguments!r})\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'numba', 'torch', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Usage:" in done.stdout


def test_mistakes_of_every_stage_are_told_together(models: Path) -> None:
    save_file({"w": W.T.copy(), "head": W}, models / "b" / "model.safetensors")
    (models / "out").mkdir()
    (models / "out" / "notes.txt").write_text("")
    arguments = ["-m", "ties", "-b", "base", "a", "b", "-o", "out", "--memory", "1kB"]
    for command in ("merge", "plan"):
        done = run(models, command, *arguments, "--overwrite", code=2)
        assert "tensor 'w' has shape [2, 3] in base but [3, 2] in model 'b'" in done.stderr
        assert "out holds what no merge wrote" in done.stderr
    (models / "r.yaml").write_text(
        "method: ties\nmodels: [nowhere, a]\nparameters: {density: 2}\nrules: [{match: x, use: c}]\n"
    )
    done = run(models, "plan", "r.yaml", code=2)
    assert all(what in done.stderr for what in ("no such file or folder", "it should be at most 1", "use: 'c' is not"))
