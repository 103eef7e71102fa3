"""Pipelines of several models as inputs and outputs: names, parts, variants, and what comes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.checkpoints.pipelines import CONFIGS, PARTS, STEMS, held, list_part, merged, put, tensors, write
from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.companions import companions, copy_companions, library_of
from weft.checkpoints.layout import lay_out
from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.pipeline import components
from weft.checkpoints.variants import usual
from weft.engine.reproducing import reproduce
from weft.errors import InputError
from weft.kernels.dtypes import BFLOAT16, FLOAT32


def complaint(place: Path, **recipe: Any) -> str:
    with pytest.raises(InputError) as caught:
        merged(place, **recipe)
    assert not (place / "out").exists()
    return str(caught.value)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


class TestReading:
    """Every part's tensors, under the part's name."""

    def test_names_begin_with_the_part(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write(tmp_path / "p"))
        assert {*checkpoint.tensors} == {f"{part}/{name}" for part, own in tensors(0).items() for name in own}
        assert checkpoint.stem == STEMS
        got = checkpoint.read("vae/bias", 2, 5, np.empty(12, np.uint8))
        assert got.tobytes() == tensors(0)["vae"]["bias"][2:5].tobytes()
        assert checkpoint.file_of("vae/bias") == str(tmp_path / "p" / "vae" / "diffusion_pytorch_model.safetensors")
        checkpoint.close()

    def test_figures_of_a_part_are_not_those_of_the_whole(self, tmp_path: Path) -> None:
        write(tmp_path / "p")
        save_file({"w": np.ones(2)}, tmp_path / "p" / "vae" / "diffusion_pytorch_model.safetensors", {"norm": "3"})
        metadata = open_checkpoint(tmp_path / "p").metadata
        assert metadata["vae/norm"] == "3"
        assert "norm" not in metadata

    def test_what_is_one_tensor_in_a_part_is_one(self, tmp_path: Path) -> None:
        write(tmp_path / "p")
        shutil.rmtree(tmp_path / "p" / "vae")
        (tmp_path / "p" / "vae").mkdir()
        w = torch.arange(6.0).reshape(2, 3)
        torch.save({"a": w, "b": w}, tmp_path / "p" / "vae" / "diffusion_pytorch_model.bin")
        assert dict(open_checkpoint(tmp_path / "p").tied) == {"vae/b": "vae/a"}

    def test_folders_that_are_not_listed_are_no_parts(self, tmp_path: Path) -> None:
        """A training script leaves checkpoints beside the pipeline."""
        folder = write(tmp_path / "p")
        save_file({"w": np.ones(2)}, folder / "v1-5-pruned.safetensors")
        shutil.copytree(folder / "unet", folder / "checkpoint-500")
        checkpoint = open_checkpoint(folder)
        assert {name.partition("/")[0] for name in checkpoint.tensors} == {*PARTS}
        (note,) = checkpoint.notes
        assert note == f"{folder}: weights in checkpoint-500 are left out, as model_index.json does not list them"

    def test_a_listed_folder_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        list_part(folder, "image_encoder")
        assert open_checkpoint(folder).notes == (
            f"{folder}: model_index.json lists image_encoder, but there is no such folder",
        )

    def test_a_part_without_its_weights(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        for part in ("unet", "vae"):
            (folder / part / "diffusion_pytorch_model.safetensors").unlink()
        text = refusal(folder)
        assert text.startswith("2 problems:")
        assert f"{folder / 'unet'}: no weights in it" in text
        assert f"{folder / 'vae'}: no weights in it" in text

    @pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "a\\b", "a\nb", ""])
    def test_a_listing_stays_in_its_folder(self, tmp_path: Path, name: str) -> None:
        folder = write(tmp_path / "p")
        list_part(folder, name)
        assert f"{name!r} is not the name of a sub-folder\n  -> do not use this pipeline" in refusal(folder)

    @pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "\xff"])
    def test_a_damaged_listing(self, tmp_path: Path, text: str) -> None:
        folder = write(tmp_path / "p")
        (folder / "model_index.json").write_bytes(text.encode("latin-1"))
        assert f"{folder / 'model_index.json'}: " in refusal(folder)

    def test_entries_that_are_no_components(self, tmp_path: Path) -> None:
        entries = {"_class_name": ["a", "b"], "force_zeros": True, "none": None, "unet": ["a", "b"], "three": ["a"] * 3}
        put(tmp_path / "model_index.json", {**entries, "left_out": [None, None], "mixed": ["a", None]})
        assert components(tmp_path) == ("unet",)

    def test_a_refused_pipeline_leaves_no_file_open(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
        for _ in range(5):
            refusal(folder)
        assert (len(list(descriptors.iterdir())) if descriptors.is_dir() else 0) <= before


PLAIN, HALF, OTHER = np.zeros(2, np.float32), np.ones(2, np.float16), np.ones(2)


class TestVariants:
    """`model.fp16.safetensors` beside `model.safetensors`."""

    @pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
    def test_the_plain_file_is_taken(self, tmp_path: Path, stem: str) -> None:
        for name, tensor in (("", PLAIN), (".fp16", HALF), (".non_ema", OTHER)):
            save_file({"w": tensor}, tmp_path / f"{stem}{name}.safetensors")
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.tensors["w"].dtype is FLOAT32
        assert checkpoint.stem == stem

    def test_an_only_variant_is_taken_and_its_name_is_not(self, tmp_path: Path) -> None:
        save_file({"w": HALF}, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.tensors["w"].dtype.name == "float16"
        assert checkpoint.stem == "diffusion_pytorch_model"

    def test_of_several_the_one_with_the_most_digits(self, tmp_path: Path) -> None:
        save_file({"w": HALF}, tmp_path / "model.fp16.safetensors")
        save_file({"w": PLAIN}, tmp_path / "model.fp32.safetensors")
        assert open_checkpoint(tmp_path).tensors["w"].dtype is FLOAT32

    def test_a_plain_pickle_goes_before_a_variant(self, tmp_path: Path) -> None:
        save_file({"w": HALF}, tmp_path / "model.fp16.safetensors")
        torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
        assert open_checkpoint(tmp_path).tensors["w"].dtype is FLOAT32

    @pytest.mark.parametrize(
        ("index", "shard"),
        [
            ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
            ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
            ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ],
    )
    def test_shards_of_a_variant(self, tmp_path: Path, index: str, shard: str) -> None:
        for k in (1, 2):
            save_file({f"w{k}": HALF}, tmp_path / shard.format(k))
        put(tmp_path / index, {"weight_map": {f"w{k}": shard.format(k) for k in (1, 2)}})
        for source in (tmp_path, tmp_path / index):
            checkpoint = open_checkpoint(source)
            assert {*checkpoint.tensors} == {"w1", "w2"}
            assert checkpoint.stem == "model"
        save_file({"w": PLAIN}, tmp_path / "model.safetensors")
        assert {*open_checkpoint(tmp_path).tensors} == ({"w"} if "fp16" in index else {"w1", "w2"})

    @pytest.mark.parametrize("names", [("model.a", "model.b"), ("model.fp16", "mine"), ("x.fp16", "x")])
    def test_what_is_not_clear_is_not_guessed(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for name in names:
            save_file({"w": PLAIN}, tmp_path / f"{name}.safetensors")
        assert "holds several checkpoints: " in refusal(tmp_path)

    def test_numbered_files_without_an_index_are_no_usual_name(self) -> None:
        assert usual([Path(f"model.fp16-0000{k}-of-00002.safetensors") for k in (1, 2)]) is None


class TestWriting:
    """Every part's files in its own folder, as if its library had saved them."""

    def test_the_parts_files(self, tmp_path: Path) -> None:
        out = merged(tmp_path, output={"shard_size": "1KB"})
        for part, own in tensors(0).items():
            files = sorted((out / part).glob("*.safetensors"))
            names = {name for file in files for name in load_file(file)}
            assert names == {*own}
            assert all(safe_open(file, "np").metadata() == {"format": "pt"} for file in files)
            index = out / part / f"{STEMS[part]}.safetensors.index.json"
            assert index.exists() == (len(files) > 1)
            if index.exists():
                told = json.loads(index.read_text())
                assert {*told["weight_map"]} == {*own}
                assert {*told["weight_map"].values()} == {file.name for file in files}
                assert told["metadata"]["total_size"] == sum(tensor.nbytes for tensor in own.values())
        assert (out / "unet" / "diffusion_pytorch_model-00001-of-00003.safetensors").is_file()
        assert (out / "text_encoder" / "model.safetensors").is_file()

    def test_the_numbers(self, tmp_path: Path) -> None:
        got = held(merged(tmp_path, parameters={"scale": 0.5}))
        base, a, b = (
            {f"{p}/{n}": t.astype(float) for p, own in tensors(k).items() for n, t in own.items()} for k in range(3)
        )
        assert got.keys() == base.keys()
        for name, tensor in got.items():
            np.testing.assert_allclose(
                tensor, base[name] + 0.5 * (a[name] + b[name] - 2 * base[name]), rtol=1e-6, atol=1e-6
            )

    def test_an_own_name_may_hold_a_slash(self, tmp_path: Path) -> None:
        """What stands before the first slash is the part."""
        for seed, name in enumerate(("base", "a", "b")):
            parts = tensors(seed)
            parts["vae"] = {"unet/conv": parts["vae"]["bias"], "/odd": parts["vae"]["bias"] + 1}
            write(tmp_path / name, parts=parts)
        out = merged(tmp_path)
        assert {*load_file(out / "vae" / "diffusion_pytorch_model.safetensors")} == {"unet/conv", "/odd"}
        assert {*load_file(out / "unet" / "diffusion_pytorch_model.safetensors")} == {*tensors(0)["unet"]}

    def test_metadata_go_back_to_their_part(self) -> None:
        specs = [TensorSpec(f"{part}/w", FLOAT32, (2,)) for part in ("unet", "vae")]
        said = {"format": "pt", "vae/format": "np", "vae/by": "me"}
        unet, vae = lay_out(specs, {"unet": "m", "vae": "m", "empty": "m"}, 99, said).shards
        assert json.loads(unet.header[8:])["__metadata__"] == {"format": "pt"}
        assert json.loads(vae.header[8:])["__metadata__"] == {"format": "np", "by": "me"}
        assert (unet.name, vae.name) == ("unet/m.safetensors", "vae/m.safetensors")

    def test_variants_are_neither_merged_nor_copied(self, tmp_path: Path) -> None:
        write(tmp_path / "base")
        unet = tmp_path / "base" / "unet"
        save_file({"w": HALF}, unet / "diffusion_pytorch_model.fp16.safetensors")
        put(unet / "diffusion_pytorch_model.safetensors.index.fp16.json", {})
        out = merged(tmp_path)
        assert {p.name for p in (out / "unet").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}

    def test_it_can_be_reproduced(self, tmp_path: Path) -> None:
        out = merged(tmp_path, output={"shard_size": "1KB"})
        reproduce(out, tmp_path / "again")
        files = [{p.relative_to(o): p.read_bytes() for p in o.glob("*/*")} for o in (out, tmp_path / "again")]
        assert files[0] == files[1]


class TestCompanions:
    """Configs, scheduler, tokenizer come from the base."""

    def test_all_components_come_along(self, tmp_path: Path) -> None:
        out = merged(tmp_path)
        for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "vae/config.json"):
            assert (out / name).read_bytes() == (tmp_path / "base" / name).read_bytes()

    def test_components_may_be_links_other_folders_not(self, tmp_path: Path) -> None:
        """Pipelines are put together with links, to save space."""
        store = write(tmp_path / "store")
        folder = tmp_path / "p"
        folder.mkdir()
        shutil.copy(store / "model_index.json", folder)
        for name in (*PARTS, "scheduler", "tokenizer"):
            (folder / name).symlink_to(store / name)
        (folder / "secrets").symlink_to(tmp_path)
        assert {*open_checkpoint(folder).tensors} == {*open_checkpoint(store).tensors}
        assert {*companions(folder)} == {*companions(store)}

    def test_other_models_stay(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        shutil.copytree(folder / "unet", folder / "unet_ema")
        put(folder / "assets" / "picture.json", {})
        found = {path.parts[0] for path in companions(folder)}
        assert "unet_ema" not in found
        assert "assets" in found

    def test_each_config_tells_the_number_format(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        put(folder / "vae" / "config.json", {**CONFIGS["vae"], "quantization_config": quantised})
        for part in PARTS:
            (tmp_path / "out" / part).mkdir(parents=True)
        copy_companions(folder, tmp_path / "out", BFLOAT16)
        configs = {part: json.loads((tmp_path / "out" / part / "config.json").read_text()) for part in PARTS}
        assert configs["text_encoder"]["dtype"] == "bfloat16"
        assert configs["vae"] == CONFIGS["vae"]
        assert configs["unet"] == CONFIGS["unet"]

    def test_a_dropped_part_leaves_the_listing(self, tmp_path: Path) -> None:
        out = merged(tmp_path, rules=[{"match": "vae/*", "use": "drop"}])
        assert not (out / "vae").exists()
        before, after = (json.loads((p / "model_index.json").read_text()) for p in (tmp_path / "base", out))
        assert after == before | {"vae": [None, None]}
        assert {name.partition("/")[0] for name in open_checkpoint(out).tensors} == {"text_encoder", "unet"}

    def test_which_library_loads_it(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "p")
        assert library_of(folder) == "diffusers"
        assert library_of(folder / "unet") == "diffusers"
        assert library_of(folder / "text_encoder") == "transformers"
        assert library_of(folder / "tokenizer") is None


class TestMisfits:
    """What does not fit is told once, with the way out."""

    def test_a_pipeline_with_a_part_alone(self, tmp_path: Path) -> None:
        for seed, name in enumerate(("base", "a")):
            write(tmp_path / name, seed)
        write(tmp_path / "whole", 5)
        shutil.move(tmp_path / "whole" / "unet", tmp_path / "b")
        assert complaint(tmp_path) == (
            f"base ({tmp_path / 'base'}) is a pipeline of text_encoder, unet, vae, but model 'b' ({tmp_path / 'b'}) is "
            f"one model\n  -> merge the part that it is: {tmp_path / 'base'}/unet"
        )

    def test_a_part_as_the_base_of_pipelines(self, tmp_path: Path) -> None:
        write(tmp_path / "whole")
        shutil.move(tmp_path / "whole" / "vae", tmp_path / "base")
        text = complaint(tmp_path)
        assert text.startswith("2 problems:")
        assert f"model 'a' ({tmp_path / 'a'}) is a pipeline of text_encoder, unet, vae, but base" in text
        assert f"merge the part that it is: {tmp_path / 'a'}/vae" in text

    def test_a_model_that_is_no_part(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        save_file({"lm_head.weight": np.ones((2, 2))}, tmp_path / "b" / "model.safetensors")
        text = complaint(tmp_path)
        assert f"name a part of the pipeline: {tmp_path / 'base'}/text_encoder, {tmp_path / 'base'}/unet" in text

    def test_a_part_that_one_lacks_is_one_problem(self, tmp_path: Path) -> None:
        write(tmp_path / "b", 2)
        shutil.rmtree(tmp_path / "b" / "vae")
        list_part(tmp_path / "b", "vae", [None, None])
        text = complaint(tmp_path)
        assert text == (
            f"part 'vae' (3 tensors) is in base, model 'a' but missing from model 'b' ({tmp_path / 'b'})\n"
            '  -> add a rule with match: "vae/*" and `use: base` or `use: drop`; or choose a policy with `on_missing:`'
        )
        kept = held(merged(tmp_path, rules=[{"match": "vae/*", "use": "base"}]))
        assert kept["vae/bias"].tobytes() == tensors(0)["vae"]["bias"].tobytes()

    def test_single_tensors_that_are_missing_are_told_beside_it(self, tmp_path: Path) -> None:
        parts = tensors(2)
        del parts["vae"], parts["unet"]["mid.bias"]
        write(tmp_path / "b", parts=parts)
        text = complaint(tmp_path)
        assert text.startswith("2 problems:")
        assert "tensor 'unet/mid.bias' is in base, model 'a' but missing from model 'b'" in text
        assert "part 'vae' (3 tensors)" in text

    def test_a_policy_for_missing_tensors_is_one_for_parts(self, tmp_path: Path) -> None:
        write(tmp_path / "b", 2)
        shutil.rmtree(tmp_path / "b" / "vae")
        kept = held(merged(tmp_path, on_missing="base"))
        assert kept["vae/bias"].tobytes() == tensors(0)["vae"]["bias"].tobytes()

    def test_a_part_that_only_a_model_has_cannot_be_written(self, tmp_path: Path) -> None:
        write(tmp_path / "a", parts={**tensors(1), "image_encoder": {"w": np.ones(3, np.float32)}})
        list_part(tmp_path / "a", "image_encoder")
        assert "part 'image_encoder' (1 tensors) is in model 'a' but missing from base" in complaint(tmp_path)
        text = complaint(tmp_path, rules=[{"match": "image_encoder/*", "use": "a"}])
        assert "the pipeline that lends model_index.json and configs has no part 'image_encoder'" in text
        assert 'add a rule with match: "image_encoder/*" and `use: drop`' in text
        merged(tmp_path, rules=[{"match": "image_encoder/*", "use": "drop"}])

    def test_names_without_a_part(self, tmp_path: Path) -> None:
        models = [{"path": "a", "rename": {"unet/conv_in.": "conv_in."}}]
        for seed, name in enumerate(("a", "base")):
            write(tmp_path / name, seed)
        text = complaint(tmp_path, method="linear", base=None, models=models)
        assert "1 tensors of the output belong to no part of the pipeline: 'conv_in.weight'" in text
        assert "let `rename` put a part before their names: text_encoder/, unet/, vae/" in text
