"""Names: what counts as a Hub id, and which of a repository's files are fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.checkpoints.hub import fetch, is_hub_id
from weft.checkpoints.hub_files import listed_in, needed
from weft.errors import InputError

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "text", ["org/name", "org/name@main", "Qwen/Qwen2.5-0.5B", "a/b@refs/pr/3", "a_b/c-d@0123abc", "0x/1_", "a/b@v1.0"]
)
def test_ids(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name@main", "./org/name", "../org/name", "/org/name", "~/name", "org/name/more", "org/", "/name",
        "org//name", "org/name.safetensors", "org/name.bin", "org/name.pt", "org/name.pth", "org/name.gguf",
        "org/name.bin@main", "org/model.safetensors.index.json", "org/na me", "org/name@", "org/name@a b",
        "org/name@a@b", "org/-name", "org/name-", "org/.name", "org/a--b", "org/a..b", "org/name@../../x",
        "org/name.git", "C:\\org/name", "org/nämé", "https://huggingface.co/org/name", f"org/{'x' * 96}", "org/name\n",
    ],
)  # fmt: skip
def test_no_ids(text: str) -> None:
    assert not is_hub_id(text)


def test_what_exists_here_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "dangling").symlink_to("nowhere")
    (tmp_path / "org" / "name@v1").mkdir()
    assert not is_hub_id("org/name")
    assert not is_hub_id("org/dangling")
    assert not is_hub_id("org/name@v1")
    assert is_hub_id("org/name@v2"), "a folder has no revisions"
    monkeypatch.chdir("org")
    assert is_hub_id("org/name")
    assert not is_hub_id("org/name", tmp_path)


def test_what_is_no_id_is_not_fetched() -> None:
    with pytest.raises(InputError, match="'name' is not a Hub id\n  -> write org/name or org/name@revision"):
        fetch("name")


def chosen(*names: str, listed: dict[str, list[str]] | None = None) -> set[str]:
    return set(needed(names, lambda index: (listed or {}).get(index, [])))


def test_safetensors_and_companions_without_the_copies_in_other_formats() -> None:
    wanted = {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model.v3",
        "merges.txt", "chat_template.jinja", "additional_chat_templates/tool.jinja", "spiece.model", "LICENSE",
        "README.md", "modeling_own.py", "1_Pooling/config.json",
    }  # fmt: skip
    unwanted = {
        ".gitattributes", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack",
        "rust_model.ot", "model.onnx", "onnx/model.onnx", "onnx/config.json", "onnx/model.onnx_data",
        "model-Q4_K_M.gguf",
        "openvino/openvino_model.bin", "openvino_model.bin", "original/consolidated.00.pth", "original/params.json",
        "original/model.safetensors", "consolidated.safetensors", "metal/model.bin", "training_args.bin",
        "optimizer.bin",
        "checkpoint-500/model.safetensors", "runs/Jan01/events.out.tfevents.1", "trainer_state.json", "loss.png",
        "model.fp16.safetensors", "draft/model.safetensors", "coreml/x.mlpackage/Data/weight.bin", "model.pth",
    }  # fmt: skip
    assert chosen(*wanted, *unwanted) == wanted


def test_torch_weights_where_there_are_no_safetensors() -> None:
    names = ["config.json", "pytorch_model.bin", "tf_model.h5", "training_args.bin", "rng_state.bin"]
    assert chosen(*names) == {"config.json", "pytorch_model.bin"}
    assert chosen("config.json", "weights.bin", "optimizer.bin") == {"config.json", "weights.bin"}


def test_an_index_alone_does_not_make_a_format() -> None:
    assert chosen(INDEX, "pytorch_model.bin") == {"pytorch_model.bin"}


def test_shards_are_what_the_index_lists() -> None:
    odd = ["model.safetensors-00001-of-00002.safetensors", "mtp.safetensors"]
    assert chosen(INDEX, *SHARDS, *odd, "consolidated.safetensors", listed={INDEX: odd}) == {INDEX, *odd}
    assert chosen(INDEX, *SHARDS, "extra.safetensors") == {INDEX, *SHARDS}, "an index that cannot be read"
    assert chosen(INDEX, SHARDS[0], listed={INDEX: SHARDS}) == {INDEX, SHARDS[0]}, "a shard that is not there"
    assert chosen(*SHARDS) == {*SHARDS}


def test_a_pipeline_needs_its_folders_and_no_single_file_copies() -> None:
    unet, text = "unet/diffusion_pytorch_model", "text_encoder/model"
    parts = [f"{unet}-00001-of-00002.safetensors", f"{unet}-00002-of-00002.safetensors"]
    index = f"{unet}.safetensors.index.json"
    wanted = {
        "model_index.json", "unet/config.json", index, *parts, f"{text}.safetensors", "tokenizer/vocab.json",
        "safety_checker/pytorch_model.bin", "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }  # fmt: skip
    unwanted = {
        "sd-v1-5.safetensors", "sd-v1-5-ema.ckpt", f"{unet}.fp16-00001-of-00001.safetensors", f"{unet}.bin",
        f"{unet}.safetensors.index.fp16.json", f"{text}.fp16.safetensors", "text_encoder/pytorch_model.bin",
        "text_encoder/flax_model.msgpack", "unet/model.onnx", "vae/diffusion_pytorch_model.int8.safetensors",
    }  # fmt: skip
    assert chosen(*wanted, *unwanted, listed={index: parts}) == wanted


def test_folders_beside_a_model_are_copies_unless_it_is_made_of_modules() -> None:
    names = ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"]
    assert "2_Dense/model.safetensors" not in chosen(*names)
    assert "2_Dense/model.safetensors" in chosen(*names, "modules.json")
    assert chosen("vision/model.safetensors", "text/model.safetensors") == {
        "vision/model.safetensors",
        "text/model.safetensors",
    }


def test_an_adapter() -> None:
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert chosen(*names, "adapter_model.bin") == names


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 5000])
def test_an_index_that_is_not_one_lists_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    assert listed_in(tmp_path / INDEX, INDEX) == []
    assert listed_in(tmp_path / "missing", INDEX) == []


def test_an_index_lists_files_beside_itself(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "b": "x.safetensors", "c": "w.safetensors"}}')
    assert listed_in(tmp_path / INDEX, f"unet/{INDEX}") == ["unet/w.safetensors", "unet/x.safetensors"]


def test_an_index_that_points_elsewhere_fetches_nothing_from_there() -> None:
    names = [INDEX, "model.safetensors", "original/consolidated.00.pth"]
    assert chosen(*names, listed={INDEX: ["../../secret", "/etc/passwd", "model.safetensors"]}) == set(names[:2])
