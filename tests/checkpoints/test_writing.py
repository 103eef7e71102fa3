"""Output: where every tensor lies, that it appears whole or not at all, and what comes along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.companions import companions, copy_companions
from weft.checkpoints.layout import lay_out
from weft.checkpoints.staging import staging
from weft.errors import InputError, MergeError
from weft.kernels.dtypes import BFLOAT16, BY_NAME, FLOAT32, DType

SPECS = [TensorSpec("b", BY_NAME["float16"], (3,)), TensorSpec("a", FLOAT32, (2, 2)), TensorSpec("c", FLOAT32, ())]


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def test_shards_fill_in_order_and_every_tensor_is_aligned() -> None:
    layout = lay_out(SPECS, "model", 22, {"format": "pt"})
    assert [list(shard.offsets) for shard in layout.shards] == [["a", "b"], ["c"]], "the widest first inside a shard"
    for shard in layout.shards:
        assert len(shard.header) % 8 == 0
        assert all(offset % 4 == 0 for name, offset in shard.offsets.items() if name != "b")


def test_the_index_is_as_save_pretrained_writes_it() -> None:
    layout = lay_out(SPECS, "model", 22, {})
    assert list(layout.indices) == ["model.safetensors.index.json"]
    assert json.loads(layout.indices["model.safetensors.index.json"]) == {
        "metadata": {"total_size": 26},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }


def test_pieces_written_in_any_order_make_a_file(tmp_path: Path) -> None:
    with staging(tmp_path / "out", lay_out(SPECS, "model", 10**9, {"format": "pt"})) as area:
        area.write("a", 2, np.array([2, 3], np.float32))
        area.write("c", 0, np.array([7], np.float32))
        area.write("a", 0, np.array([0, 1], np.float32))
        area.write("b", 0, np.array([1, 2, 3], np.float16))
        assert not (tmp_path / "out").exists()
        area.commit(overwrite=False)
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: t.tolist() for n, t in read.items()} == {"a": [[0, 1], [2, 3]], "b": [1, 2, 3], "c": 7}
    assert leftovers(tmp_path) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging(tmp_path / "out", lay_out(SPECS, "model", 99, {})) as area:
        area.write("c", 0, np.zeros(1, np.float32))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    layout = lay_out(SPECS, "model", 99, {})
    with staging(tmp_path / "out", layout), pytest.raises(InputError, match="another process is writing"):
        with staging(tmp_path / "out", layout):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(MergeError, match=r"cannot write .*out: No space left on device"):
        with staging(tmp_path / "out", lay_out(SPECS, "model", 99, {})):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_model_folder_holds_comes_along(tmp_path: Path) -> None:
    names = {
        "config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "generation_config.json",
        "vocab.txt", "LICENSE", "1_Pooling/config.json", "preprocessor_config.json",
    }  # fmt: skip
    stale = {
        "model.safetensors",
        "pytorch_model.bin",
        "model.onnx",
        "onnx/model.onnx",
        "x.gguf",
        "tf_model.h5",
        ".git/HEAD",
    }
    for name in names | stale:
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text("{}")
    assert {str(p) for p in companions(tmp_path / "base")} == names


def test_further_modules_keep_their_weights(tmp_path: Path) -> None:
    """A sentence-transformers model may have a dense layer in a folder of its own."""
    for name in ("2_Dense/model.safetensors", "2_Dense/config.json", "onnx/model.onnx", "3_Other/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    assert {str(p) for p in companions(tmp_path)} == {
        "modules.json",
        "2_Dense/model.safetensors",
        "2_Dense/config.json",
    }


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("content")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").write_text("")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "vocab.txt").symlink_to(tmp_path / "blob")
    (tmp_path / "base" / "folder").symlink_to(tmp_path / "elsewhere")
    copy_companions(tmp_path / "base", tmp_path / "out", None)
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")] == ["vocab.txt"]
    assert not (tmp_path / "out" / "vocab.txt").is_symlink()


def test_the_config_tells_the_number_format(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"torch_dtype": "float32", "hidden": 3}')
    copy_companions(tmp_path / "base", tmp_path / "out", BFLOAT16)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"torch_dtype": "bfloat16", "hidden": 3}


FLOAT8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        ({"quantization_config": FLOAT8, "dtype": "float8_e4m3fn"}, None, {"dtype": "bfloat16"}),
        ({"quantization_config": FLOAT8, "torch_dtype": "float16"}, FLOAT32, {"torch_dtype": "float32"}),
        ({"compression_config": FLOAT8, "hidden": 3}, None, {"hidden": 3}),
        (
            {"text_config": {"quantization_config": FLOAT8}, "dtype": "x"},
            None,
            {"text_config": {}, "dtype": "bfloat16"},
        ),
    ],
)
def test_the_config_does_not_call_the_output_quantised(
    tmp_path: Path, config: dict[str, object], dtype: DType | None, expected: dict[str, object]
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "hf_quant_config.json").write_text("{}")
    copy_companions(tmp_path / "base", tmp_path / "out", dtype)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ['{"hidden":3,   "dtype": "float32"}', "not JSON", "[1]"])
def test_a_config_that_needs_no_change_keeps_its_bytes(tmp_path: Path, text: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(text)
    copy_companions(tmp_path / "base", tmp_path / "out", None)
    assert (tmp_path / "out" / "config.json").read_text() == text
