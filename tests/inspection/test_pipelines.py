"""`weft verify` of a merged pipeline: clean ones pass, planted faults are found and told by part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints.pipelines import CONFIGS, WORDS, list_part, merged, put, write
from tests.inspection.models import change, complains, flip, rewrite, told
from weft.inspection.verify import verify

UNET, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"
SHARD = "diffusion_pytorch_model-0000{}-of-00003.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A clean output, its UNet in three shards."""
    return merged(tmp_path, output={"shard_size": "1KB"})


def test_a_clean_output_passes(out: Path) -> None:
    verdict = verify(out, workers=1)
    assert verdict.spotless, verdict.findings
    assert not verdict.skipped
    assert (verdict.files, verdict.tensors) == (7, 9)


def test_a_pipeline_that_weft_did_not_write(tmp_path: Path) -> None:
    """With what people leave in them: variants, copies in one file."""
    folder = write(tmp_path / "p")
    save_file({"w": np.ones(2, np.float16)}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"w": np.ones(2)}, folder / "v1-5-pruned.safetensors")
    assert verify(folder).spotless


def test_one_part_alone_may_be_looked_at(out: Path) -> None:
    verdict = verify(out / "unet")
    assert (verdict.files, verdict.tensors) == (3, 4)
    assert verdict.ok


def _swapped_entry(out: Path) -> None:
    index = json.loads((out / "unet" / INDEX).read_text())
    weight_map = index["weight_map"]
    weight_map["conv_in.weight"], weight_map["conv_out.weight"] = (
        weight_map["conv_out.weight"],
        weight_map["conv_in.weight"],
    )
    put(out / "unet" / INDEX, index)


def _swapped_folders(out: Path) -> None:
    (out / "unet").rename(out / "x")
    (out / "vae").rename(out / "unet")
    (out / "x").rename(out / "vae")


def _stale_folder(out: Path) -> None:
    shutil.copytree(out / "text_encoder", out / "text_encoder_2")


def _not_finite(tensors: dict[str, np.ndarray]) -> None:
    tensors["text_model.norm.weight"][3] = np.nan


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a shard is gone": (lambda out: (out / "unet" / SHARD.format(2)).unlink(), "1 of 3 shards are missing", "files"),
    "a whole file is gone": (lambda out: (out / "text_encoder" / TEXT).unlink(), "text_encoder: no weights", "files"),
    "a folder is gone": (lambda out: shutil.rmtree(out / "scheduler"), "lists 'scheduler', but there is", "pipeline"),
    "a part is gone": (lambda out: shutil.rmtree(out / "vae"), "lists 'vae', but there is no such folder", "pipeline"),
    "folders are swapped": (_swapped_folders, "'unet' is a UNet2DConditionModel, but unet/config.json", "pipeline"),
    "the listing is damaged": (lambda out: (out / "model_index.json").write_text("{"), "cannot be read as", "pipeline"),
    "an index entry is swapped": (_swapped_entry, "says that 'conv_in.weight'", "index"),
    "an index is gone": (lambda out: (out / "unet" / INDEX).unlink(), "unet: shards without an index", "index"),
    "a header is damaged": (lambda out: flip(out / "vae" / SHARD.format(1), 0, 5), "vae", "header"),
    "a stale variant": (
        lambda out: shutil.copy(out / "text_encoder" / TEXT, out / "text_encoder" / "model.fp16.safetensors"),
        "model.fp16.safetensors: is not part of the checkpoint", "stale",
    ),
    "a stale single file": (
        lambda out: shutil.copy(out / "unet" / SHARD.format(1), out / "unet" / UNET),
        "is not part of the checkpoint that diffusion_pytorch_model.safetensors.index.json describes, but is loaded",
        "stale",
    ),
    "a stale part": (_stale_folder, "text_encoder_2: holds weights, but model_index.json does not list it", "stale"),
    "weights beside the parts": (
        lambda out: save_file({"w": np.ones(2)}, out / "model.safetensors"),
        "weights beside the parts of a pipeline: model.safetensors", "stale",
    ),
    "a UNet for inpainting": (
        lambda out: change(out / "unet" / "config.json", in_channels=9),
        "'conv_in.weight' [8, 4, 3, 3] has 4 channels along axis 1, config.json says in_channels 9", "config",
    ),
    "other text": (
        lambda out: change(out / "unet" / "config.json", cross_attention_dim=[16, 32]),
        "'mid.attn2.to_k.weight' [16, 8] has 8 channels along axis 1, config.json says cross_attention_dim [16, 32]",
        "config",
    ),
    "another latent space": (
        lambda out: change(out / "vae" / "config.json", latent_channels=16), "config.json says latent_channels 16",
        "config",
    ),
    "another vocabulary": (
        lambda out: change(out / "text_encoder" / "config.json", vocab_size=WORDS + 1),
        f"has {WORDS} rows, config.json says vocab_size {WORDS + 1}", "config",
    ),
    "another tokenizer": (
        lambda out: change(out / "tokenizer" / "vocab.json", beyond=WORDS), f"token 'beyond' has id {WORDS}, but",
        "tokenizer",
    ),
    "a damaged scheduler": (
        lambda out: (out / "scheduler" / "scheduler_config.json").write_text("{"), "cannot be read as JSON", "json",
    ),
    "not finite": (
        lambda out: rewrite(out / "text_encoder" / TEXT, _not_finite), "tensor 'text_model.norm.weight' [8]: 1 NaN",
        "numbers",
    ),
    "a tensor too few": (
        lambda out: rewrite(out / "text_encoder" / TEXT, lambda tensors: tensors.pop("text_model.norm.weight")),
        "1 tensors that the recipe yields are missing: text_encoder/text_model.norm.weight", "parents",
    ),
    "a tensor too many": (
        lambda out: rewrite(out / "text_encoder" / TEXT, lambda tensors: tensors.update(x=np.ones(2))),
        "1 tensors are not what the recipe yields: text_encoder/x", "parents",
    ),
    "another size": (
        lambda out: rewrite(out / "text_encoder" / TEXT, lambda tensors: tensors.update(x=np.ones(2))),
        "text_encoder/model.safetensors: has", "lock",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(out: Path, name: str) -> None:
    plant, says, check = FAULTS[name]
    plant(out)
    complains(out, says, check)


def test_with_hashes_a_flipped_bit_in_a_part(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    from weft.engine.merging import merge_to

    for seed, name in enumerate(("a", "b")):
        write(tmp_path / name, seed)
    merge_to({"folder": tmp_path, "method": "linear", "models": ["a", "b"]}, tmp_path / "out", hashes=True)
    file = tmp_path / "out" / "unet" / UNET
    flip(file, file.stat().st_size - 3, 2)
    told(verify(tmp_path / "out", hashes=True), "its content has blake3", "hash")


def test_ties_of_a_part(tmp_path: Path) -> None:
    """T5 as a second text encoder holds its embedding under two names."""
    config = {"architectures": ["T5EncoderModel"], "vocab_size": WORDS, "d_model": 4, "tie_word_embeddings": True}
    for seed, name in enumerate(("base", "a", "b")):
        embedding = np.random.default_rng(seed).standard_normal((WORDS, 4)).astype(np.float32)
        both = {"shared.weight": embedding, "encoder.embed_tokens.weight": embedding}
        write(tmp_path / name, parts={"text_encoder": both})
        put(tmp_path / name / "text_encoder" / "config.json", config)
        for part in ("unet", "vae"):
            list_part(tmp_path / name, part, [None, None])
    out = merged(tmp_path)
    assert verify(out).spotless
    rewrite(out / "text_encoder" / TEXT, lambda tensors: tensors["shared.weight"].__setitem__((0, 0), 5))
    complains(out, "'encoder.embed_tokens.weight' differs from 'shared.weight'", "tied")


def test_what_a_parent_has_too_is_no_error(tmp_path: Path) -> None:
    """A config that was wrong in the base is not the merge's doing."""
    write(tmp_path / "base")
    put(tmp_path / "base" / "unet" / "config.json", {**CONFIGS["unet"], "out_channels": 8})
    verdict = verify(merged(tmp_path))
    assert verdict.ok
    assert "so it is in base" in told(verdict, "says out_channels 8", "config", "warning").what


def test_a_pipeline_is_not_asked_to_write(out: Path) -> None:
    assert verify(out, generate="once").skipped == ("a pipeline was not run: it writes no text",)
