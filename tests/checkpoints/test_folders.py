"""Model folders: one file, shards with an index, and the ways in which they are incomplete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError, MergeError

ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
TWO = {"b": np.arange(4, dtype=np.float32)}


def sharded(folder: Path, weight_map: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(ONE, folder / "model-00001-of-00002.safetensors")
    save_file(TWO, folder / "model-00002-of-00002.safetensors")
    weight_map = weight_map or {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 40}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def complaint(source: object) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(source)
    return str(caught.value)


def everything(source: object) -> dict[str, list[float]]:
    checkpoint = open_checkpoint(source)
    buffer = np.empty(1000, np.uint8)
    read = {n: checkpoint.read(n, 0, s.size, buffer).tolist() for n, s in checkpoint.tensors.items()}
    checkpoint.close()
    return read


def test_a_file_a_folder_shards_and_an_index_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    save_file({**ONE, **TWO}, tmp_path / "one" / "model.safetensors")
    shards = sharded(tmp_path / "two")
    expected = {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 2, 3]}
    for source in (
        tmp_path / "one",
        tmp_path / "one" / "model.safetensors",
        shards,
        shards / "model.safetensors.index.json",
    ):
        assert everything(source) == everything(str(source)) == expected


def test_a_range_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path))
    assert checkpoint.read("a", 2, 5, np.empty(12, np.uint8)).tolist() == [2, 3, 4]


def test_a_file_of_another_name_is_found_when_it_is_the_only_one(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "diffusion_pytorch_model.safetensors")
    assert list(everything(tmp_path)) == ["a"]


def test_several_files_without_an_index_are_not_guessed(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "x.safetensors")
    save_file(TWO, tmp_path / "y.safetensors")
    text = complaint(tmp_path)
    assert "holds several checkpoints: x.safetensors, y.safetensors" in text
    assert "name one of these files" in text


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "expert").mkdir()
    assert "no such file or folder" in (text := complaint(tmp_path / "expret"))
    assert "did you mean 'expert'?" in text
    assert "does not exist either" in complaint(tmp_path / "no" / "where")
    assert "it holds: nothing" in complaint(tmp_path / "expert")


def test_a_folder_of_another_format_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "save_pretrained writes safetensors" in complaint(tmp_path)


def test_a_missing_shard(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards are missing: model-00002-of-00002.safetensors" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "a/b.safetensors", ""])
def test_an_index_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    assert "is not a plain file name" in complaint(sharded(tmp_path, {"a": name}))


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    text = complaint(sharded(tmp_path, {"a": second, "c": first}))
    assert "says that 'a' is in model-00002-of-00002.safetensors, which does not hold it" in text
    assert "says that 'c' is in" in text
    assert "1 tensors are in the shards but not in the index: b" in text


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 5000])
def test_an_index_that_is_not_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in complaint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    save_file({**ONE, **TWO}, folder / "model-00002-of-00002.safetensors")
    assert "tensor 'a' is also in" in complaint(folder)


def test_an_input_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path))
    with (tmp_path / "model-00001-of-00002.safetensors").open("r+b") as file:
        file.truncate(80)
    with pytest.raises(MergeError, match="ends before tensor 'a' does; it was cut short"):
        checkpoint.read("a", 0, 6, np.empty(24, np.uint8))


def test_what_is_not_a_checkpoint() -> None:
    assert "cannot read tensors from a int" in complaint(3)
    assert "'epoch' is a int, not a tensor" in complaint({"epoch": 3})


# --- which of several files is meant ----------------------------------------------------------------------------------


def pickled(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save({"pickled": torch.ones(2)}, path)
    return path


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    pickled(tmp_path / "pytorch_model.bin")
    assert list(everything(tmp_path)) == ["pickled"]
    save_file(ONE, tmp_path / "other.safetensors")
    assert list(everything(tmp_path)) == ["a"]


def test_among_pickles_the_index_then_the_known_name_then_the_only_one(tmp_path: Path) -> None:
    pickled(tmp_path / "checkpoint.pt")
    assert open_checkpoint(tmp_path).file_of("pickled").endswith("checkpoint.pt")
    pickled(tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).file_of("pickled").endswith("pytorch_model.bin")
    pickled(tmp_path / "part.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"pickled": "part.bin"}}')
    assert open_checkpoint(tmp_path).file_of("pickled").endswith("part.bin")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_what_trainers_save_beside_a_model_is_not_a_model(tmp_path: Path, suffix: str) -> None:
    beside = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state_0.pth")
    for name in beside:
        (tmp_path / name).write_bytes(b"not read")
    text = complaint(tmp_path)
    assert "no weights in it, neither safetensors nor torch; it holds: optimizer.bin, " in text
    assert "name a folder that holds model.safetensors" in text
    pickled(tmp_path / f"weights{suffix}")
    assert list(everything(tmp_path)) == ["pickled"]


def test_several_pickles_without_an_index_are_not_guessed(tmp_path: Path) -> None:
    pickled(tmp_path / "x.pt")
    pickled(tmp_path / "y.pth")
    assert "holds several checkpoints: x.pt, y.pth\n  -> name one of these files" in complaint(tmp_path)


def test_a_folder_of_parts_names_them(tmp_path: Path) -> None:
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        save_file(ONE, tmp_path / part / "diffusion_pytorch_model.safetensors")
    pickled(tmp_path / "text_encoder" / "pytorch_model.bin")
    (tmp_path / "tokenizer").mkdir()
    assert "name one of the folders in it that hold weights: text_encoder, unet, vae" in complaint(tmp_path)


def test_the_output_is_called_after_the_model(tmp_path: Path) -> None:
    for name, stem in (("pytorch_model.bin", "model"), ("diffusion_pytorch_model.bin", "diffusion_pytorch_model")):
        folder = tmp_path / stem
        pickled(folder / name)
        assert getattr(open_checkpoint(folder), "stem") == stem  # noqa: B009


def test_a_suffix_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    text = complaint(tmp_path / "notes.txt")
    assert "not a .safetensors file, nor a torch pickle (.safetensors, .bin, .pt, .pth, .ckpt are read)" in text
    assert "name the folder that holds the model" in text


def test_an_empty_pickle_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin: the file is empty" in complaint(tmp_path)


def test_a_refused_checkpoint_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        complaint(sharded(tmp_path, {"a": "model-00002-of-00002.safetensors"}))
        save_file(ONE, tmp_path / "model-00002-of-00002.safetensors")
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    assert after <= before
