"""Planted mistakes in files: headers, shards, index, leftovers, lock. Each is found, and by the words expected."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.inspection.models import change, complains, flip, header_length, merged, put, rewrite, told
from weft.inspection.verify import verify

INDEX = "model.safetensors.index.json"
HEAD, UP = "lm_head.weight", "model.layers.1.mlp.up_proj.weight"


def shard(out: Path, k: int) -> Path:
    return sorted(out.glob("*.safetensors"))[k]


def weight_map(out: Path, edit: Callable[[dict[str, str]], object]) -> None:
    parsed = json.loads((out / INDEX).read_text())
    edit(parsed["weight_map"])
    put(out / INDEX, parsed)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def grow(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


def cut(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def add(path: Path, name: str, like: str) -> None:
    rewrite(path, lambda tensors: tensors.update({name: tensors[like]}))


def rename_shards(out: Path, change_name: Callable[[str], str]) -> None:
    for path in list(out.glob("*.safetensors")):
        path.rename(out / change_name(path.name))
    weight_map(out, lambda names: names.update({k: change_name(v) for k, v in names.items()}))


SHARDED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a missing shard": (lambda o: shard(o, 1).unlink(), "1 of 4 shards are missing: model-00002-of-00004", "files"),
    "an empty shard": (lambda o: shard(o, 1).write_bytes(b""), "model-00002-of-00004.safetensors", "header"),
    "a truncated shard": (lambda o: cut(shard(o, 1), 40), "the tensors need", "header"),
    "a shard that is too long": (lambda o: grow(shard(o, 0), b"\0\0\0\0"), "the tensors need", "header"),
    "a pointer instead of a shard": (
        lambda o: shard(o, 0).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"),
        "Git LFS pointer",
        "header",
    ),
    "swapped shards": (
        lambda o: swap(shard(o, 0), shard(o, 1)),
        "are in model-00001-of-00004.safetensors, which does not hold them; model-00002-of-00004.safetensors does",
        "index",
    ),
    "a stale shard of another sharding": (
        lambda o: shutil.copy(shard(o, 0), o / "model-00005-of-00005.safetensors"),
        "model-00005-of-00005.safetensors: is not part of the checkpoint",
        "stale",
    ),
    "an old single file beside the shards": (
        lambda o: save_file({"w": np.ones(2)}, o / "model.safetensors"),
        "is not part of the checkpoint that model.safetensors.index.json describes, but is loaded first",
        "stale",
    ),
    "an old pickle": (
        lambda o: (o / "pytorch_model.bin").write_bytes(b"x"),
        "pytorch_model.bin: weights in another format",
        "stale",
    ),
    "old GGUF": (lambda o: (o / "m.gguf").write_bytes(b"x"), "m.gguf: weights in another format", "stale"),
    "a second index": (
        lambda o: shutil.copy(o / INDEX, o / f"old.{INDEX}"),
        "an index that belongs to none of the files used",
        "stale",
    ),
    "no index": (lambda o: (o / INDEX).unlink(), "shards without an index: model-00001-of-00004", "index"),
    "an index cut off": (lambda o: cut(o / INDEX, 60), "cannot be read as JSON", "index"),
    "an index that is no map": (lambda o: put(o / INDEX, []), "has no weight_map", "index"),
    "an index without weights": (lambda o: put(o / INDEX, {"weight_map": {}}), "has no weight_map", "index"),
    "an index that leaves its folder": (
        lambda o: weight_map(o, lambda names: names.update({"x": "../base/model.safetensors"})),
        "shard '../base/model.safetensors' is not a plain file name",
        "index",
    ),
    "a tensor that the index forgot": (
        lambda o: weight_map(o, lambda names: names.pop("model.norm.weight")),
        "1 tensors are in the shards but not in the index: model.norm.weight",
        "index",
    ),
    "a tensor that only the index has": (
        lambda o: weight_map(o, lambda names: names.update({"ghost": shard(o, 0).name})),
        "says that 'ghost' is in model-00001-of-00004.safetensors, which does not hold it",
        "index",
    ),
    "a wrong total size": (lambda o: change(o / INDEX, metadata={"total_size": 5}), "total_size is 5, the", "index"),
    "no total size": (lambda o: change(o / INDEX, metadata=None), "has no metadata.total_size", "index"),
    "a tensor in two shards": (
        lambda o: rewrite(shard(o, 3), lambda t: t.update(load_file(shard(o, 0)))),
        "is in model-00001-of-00004.safetensors and in model-00004-of-00004.safetensors",
        "files",
    ),
    "shard numbers with a hole": (
        lambda o: rename_shards(o, lambda name: name.replace("4-of-", "5-of-").replace("of-00004", "of-00005")),
        "1 of 5 shards are not part of the checkpoint: model-00004-of-00005.safetensors",
        "files",
    ),
    "two sets of shards": (
        lambda o: rename_shards(o, lambda name: name.replace("00001-of-00004", "00001-of-00002")),
        "shards of several sets are mixed: model-...-of-00002, model-...-of-00004",
        "files",
    ),
    "a shard from another merge": (
        lambda o: rewrite(shard(o, 1), lambda t: t.update({k: np.ones((2, 2), np.float32) for k in list(t)[:1]})),
        "the recipe yields",
        "parents",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDED)
def test_planted_in_shards(tmp_path: Path, name: str) -> None:
    plant, says, check = SHARDED[name]
    out = merged(tmp_path, shard_size="12KB")
    plant(out)
    complains(out, says, check, level="error", numbers=False)


ONE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a file cut off in the header": (
        lambda o: (o / "model.safetensors").write_bytes((o / "model.safetensors").read_bytes()[:100]),
        "not a safetensors file, or cut off",
        "header",
    ),
    "no file at all": (lambda o: (o / "model.safetensors").unlink(), "no weights in it", "files"),
    "two checkpoints": (
        lambda o: shutil.copy((o / "model.safetensors").rename(o / "x.safetensors"), o / "y.safetensors"),
        "holds several checkpoints: x.safetensors, y.safetensors",
        "files",
    ),
    "a lone shard": (
        lambda o: (o / "model.safetensors").rename(o / "model-00001-of-00002.safetensors"),
        "shards without an index: model-00001-of-00002.safetensors",
        "index",
    ),
    "a stray file of weights": (
        lambda o: shutil.copy(o / "model.safetensors", o / "model.fp16.safetensors"),
        "model.fp16.safetensors: is not part of the checkpoint",
        "stale",
    ),
    "metadata that no loader knows": (
        lambda o: save_file(load_file(o / "model.safetensors"), o / "model.safetensors", {"format": "pu"}),
        "its metadata say format 'pu', which no loader knows",
        "header",
    ),
    "no metadata": (
        lambda o: save_file(load_file(o / "model.safetensors"), o / "model.safetensors"),
        "its metadata lack `format`",
        "header",
    ),
    "a tensor lost": (
        lambda o: rewrite(o / "model.safetensors", lambda t: t.pop("model.layers.2.mlp.up_proj.weight")),
        "model.layers.2 lacks 'mlp.up_proj.weight', which 3 of 4 layers have",
        "layers",
    ),
    "a tensor that the recipe yields lost": (
        lambda o: rewrite(o / "model.safetensors", lambda t: t.pop("model.norm.weight")),
        "1 tensors that the recipe yields are missing: model.norm.weight",
        "parents",
    ),
    "a tensor too many": (
        lambda o: add(o / "model.safetensors", "extra.weight", "model.norm.weight"),
        "1 tensors are not what the recipe yields: extra.weight",
        "parents",
    ),
    "a tensor in another format": (
        lambda o: rewrite(o / "model.safetensors", lambda t: t.update({HEAD: t[HEAD].astype(np.float16)})),
        "tensor 'lm_head.weight' is float16 [40, 16], the recipe yields float32 [40, 16]",
        "parents",
    ),
    "a name with one letter changed": (
        lambda o: rewrite(o / "model.safetensors", lambda t: t.update({UP.replace("up", "uq"): t.pop(UP)})),
        "model.layers.1 lacks 'mlp.up_proj.weight', which 3 of 4 layers have; it has 'mlp.uq_proj.weight' instead",
        "layers",
    ),
    "a layer lost": (
        lambda o: rewrite(o / "model.safetensors", lambda t: [t.pop(n) for n in list(t) if ".layers.1." in n]),
        "layers model.layers.N go up to 3, without 1",
        "layers",
    ),
    "a recipe that is not YAML": (lambda o: (o / "weft_recipe.yaml").write_text("a: [1"), "not valid YAML", "recipe"),
    "a recipe with a typo": (
        lambda o: (o / "weft_recipe.yaml").write_text("method: ties\nmodles: [a]\n"),
        "unknown key 'modles'",
        "recipe",
    ),
    "a lock that is not JSON": (lambda o: (o / "weft.lock.json").write_text("{"), "cannot be read as JSON", "lock"),
    "a lock without outputs": (lambda o: put(o / "weft.lock.json", {}), "has no `outputs`", "lock"),
    "a lock that leaves its folder": (
        lambda o: put(o / "weft.lock.json", {"outputs": {"../x": {}}}),
        "'../x' does not lie in the folder",
        "lock",
    ),
    "a file that the lock lists lost": (
        lambda o: (o / "tokenizer.json").unlink(),
        "tokenizer.json: weft.lock.json lists it, but it is missing",
        "lock",
    ),
    "another size than the lock says": (
        lambda o: change(o / "weft.lock.json", outputs={"model.safetensors": {"size": 7}}),
        "weft.lock.json says 7",
        "lock",
    ),
    "another header than the lock says": (
        lambda o: change(o / "weft.lock.json", outputs={"model.safetensors": {"header_sha256": "00"}}),
        "model.safetensors: its header is not the one that weft.lock.json records",
        "lock",
    ),
    "a generation config cut off": (lambda o: cut(o / "generation_config.json", 3), "cannot be read as JSON", ""),
    "some other JSON cut off": (
        lambda o: (o / "special_tokens_map.json").write_text('{"a'),
        "special_tokens_map.json: cannot be read as JSON",
        "json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_planted_in_one_file(tmp_path: Path, name: str) -> None:
    plant, says, check = ONE[name]
    out = merged(tmp_path)
    plant(out)
    complains(out, says, check, level="error", numbers=False)


def test_several_mistakes_are_told_together(tmp_path: Path) -> None:
    out = merged(tmp_path, shard_size="12KB")
    cut(shard(out, 1), 8)
    rewrite(shard(out, 2), lambda t: t[next(n for n in t if t[n].ndim == 2)].fill(np.nan))
    change(out / "config.json", vocab_size=41)
    (out / "pytorch_model.bin").write_bytes(b"")
    verdict = verify(out)
    for says in ("the tensors need", "NaN among", "config.json says vocab_size 41", "weights in another format"):
        told(verdict, says, level="error")
    assert verdict.files == 3, "the others were still opened"
    assert list(verdict.findings) == sorted(verdict.findings, key=lambda f: f.level), "errors come first"


def test_the_habits_of_others_are_only_warned_of(tmp_path: Path) -> None:
    out = merged(tmp_path, shard_size="12KB")
    (out / "weft_recipe.yaml").unlink()
    (out / "weft.lock.json").unlink()
    (out / "pytorch_model.bin").write_bytes(b"")
    change(out / INDEX, metadata={"total_size": 1})
    verdict = verify(out)
    told(verdict, "pytorch_model.bin: weights in another format", "stale", "warning")
    told(verdict, "total_size is 1", "index", "warning")
    assert verdict.ok


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_of_headers_and_index_is_found(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    out = merged(tmp_path, shard_size="12KB" if seed % 2 else "1GB")
    path = out / INDEX if seed == 3 else shard(out, 0)
    length = path.stat().st_size if seed == 3 else header_length(path)
    for _ in range(60):
        place, bit = rng.randrange(length), rng.randrange(8)
        flip(path, place, bit)
        assert verify(out, numbers=False).errors, f"byte {place}, bit {bit}"
        flip(path, place, bit)
    assert verify(out, numbers=False).spotless


def test_a_flipped_bit_of_the_data_is_found_by_its_hash(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    out = merged(tmp_path, shard_size="12KB", hashes=True)
    path = shard(out, 1)
    flip(path, path.stat().st_size - 5, 0)
    assert verify(out).ok, "the lowest bit of a number looks like any other"
    complains(out, f"{path}: its content has blake3 ", "hash", hashes=True)
    flip(path, path.stat().st_size - 5, 0)
    assert verify(out, hashes=True).spotless


def test_a_stale_shard_with_the_right_names_is_found_by_its_hash(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    out = merged(tmp_path, shard_size="12KB", hashes=True)
    rewrite(shard(out, 2), lambda tensors: tensors.update({name: t * np.float32(1.5) for name, t in tensors.items()}))
    complains(out, "model-00003-of-00004.safetensors: its content has blake3", "hash", hashes=True, numbers=False)


def test_without_recorded_hashes_nothing_is_claimed(tmp_path: Path) -> None:
    out = merged(tmp_path)
    says = "weft.lock.json holds no hashes, so no content was compared"
    complains(out, says, "hash", level="warning", hashes=True, numbers=False)
    (out / "weft.lock.json").unlink()
    complains(out, "there is no weft.lock.json, so no content", "hash", level="warning", hashes=True, numbers=False)


def test_parents_that_are_gone_or_changed_are_not_compared_with(tmp_path: Path) -> None:
    out = merged(tmp_path)
    rewrite(tmp_path / "a" / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    verdict = verify(out)
    assert verdict.spotless
    assert verdict.skipped == (
        "tensors were not compared with what the recipe yields: since the merge these were changed: model 'a'",
    )
    shutil.rmtree(tmp_path / "a")
    (text,) = verify(out).skipped
    assert "not found here: " in text
    assert text.endswith("a")
