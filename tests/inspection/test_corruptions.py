"""Planted corruptions, of every kind that `weft verify` promises to find; and clean outputs, which pass.

The words of each finding are the business of `test_files` and `test_numbers`; here it is counted that none is missed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from tests.inspection.models import flip, header_length, merged, rewrite
from tests.noting import note
from weft.inspection.verify import verify

pytest.importorskip("blake3")

INDEX = "model.safetensors.index.json"
Planted = Iterator[tuple[str, Path]]
"""What was done, and the folder in which it was done; mended again when the next one is asked for."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model of four shards with recorded hashes; its parents lie beside it."""
    return merged(tmp_path_factory.mktemp("clean"), shard_size="12KB", hashes=True)


@pytest.fixture
def out(clean: Path, tmp_path: Path) -> Path:
    """A copy to spoil. Its parents are elsewhere, as those of a model that was downloaded."""
    return Path(shutil.copytree(clean, tmp_path / "out"))


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("*.safetensors"))


def flipped(path: Path, places: range, step: int) -> Planted:
    """One bit of some bytes, one after the other."""
    chance = random.Random(path.name)
    for place in places[chance.randrange(step) :: step]:
        bit = chance.randrange(8)
        flip(path, place, bit)
        yield f"{path.name}: byte {place}, bit {bit}", path.parent
        flip(path, place, bit)


def written(path: Path, content: bytes, what: str) -> Planted:
    before = path.read_bytes()
    path.write_bytes(content)
    yield f"{path.name}: {what}", path.parent
    path.write_bytes(before)


def in_headers(out: Path, step: int) -> Planted:
    for shard in shards(out):
        yield from flipped(shard, range(header_length(shard)), step)


def in_index(out: Path, step: int) -> Planted:
    yield from flipped(out / INDEX, range((out / INDEX).stat().st_size), step)


def in_data(out: Path, step: int) -> Planted:
    """Fewer of these: one byte of a number is like another."""
    for shard in shards(out):
        yield from flipped(shard, range(header_length(shard), shard.stat().st_size), 20 * step)


def in_companions(out: Path, step: int) -> Planted:
    """Config, tokenizer, recipe: all that the lock has hashes of."""
    for name in json.loads((out / "weft.lock.json").read_text())["outputs"]:
        if not name.endswith(".safetensors") and name != INDEX:
            yield from flipped(out / name, range((out / name).stat().st_size), step)


def truncated(out: Path, step: int) -> Planted:
    for path in (*shards(out), out / INDEX):
        content = path.read_bytes()
        for length in range(0, len(content), 64 * step):
            yield from written(path, content[:length], f"cut to {length} bytes")
        yield from written(path, content[:-1], "its last byte lost")


def longer(out: Path, _: int) -> Planted:
    for path in shards(out):
        for more in (b"\0", b"\0" * 4096, path.read_bytes()):
            yield from written(path, path.read_bytes() + more, f"{len(more)} bytes more")


def zeroed(out: Path, step: int) -> Planted:
    """Pages that a power failure took."""
    for path in shards(out):
        content = path.read_bytes()
        for start in range(0, len(content), 4096):
            yield from written(
                path,
                content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :],
                f"zeros from {start}",
            )


def missing(out: Path, _: int) -> Planted:
    for path in (*shards(out), out / INDEX):
        path.rename(out.parent / "aside")
        yield f"{path.name}: missing", out
        (out.parent / "aside").rename(path)


def swapped(out: Path, _: int) -> Planted:
    for one, other in combinations(shards(out), 2):
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second), other.write_bytes(first)
        yield f"{one.name} and {other.name} swapped", out
        one.write_bytes(first), other.write_bytes(second)


def stale(out: Path, _: int) -> Planted:
    """Files of an earlier output that stayed: under other names, and under the same."""
    for name in ("model.safetensors", "model-00005-of-00005.safetensors", "model-00001-of-00009.safetensors"):
        shutil.copy(shards(out)[0], out / name)
        yield f"{name}: stale", out
        (out / name).unlink()
    for shard in shards(out):
        other = {name: values + np.float32(0.001) for name, values in load_file(shard).items()}
        save_file(other, out.parent / "other", {"format": "pt"})
        yield from written(shard, (out.parent / "other").read_bytes(), "of another merge, with the same tensors")


def not_finite(out: Path, _: int) -> Planted:
    """One number of every tensor. Hashes would tell as well; this is asked without."""
    for shard in shards(out):
        header = json.loads(shard.read_bytes()[8 : header_length(shard)])
        for name in (name for name in header if name != "__metadata__"):
            for value in (np.nan, np.inf, -np.inf):
                before = shard.read_bytes()
                rewrite(shard, lambda tensors: tensors[name].reshape(-1).__setitem__(-1, value))
                yield f"{name}: {value}", out
                shard.write_bytes(before)


def exchanged(out: Path, _: int) -> Planted:
    """Two tensors of one shape have each other's numbers: a header that anybody would accept."""
    for shard in shards(out):
        tensors = load_file(shard)
        for one, other in combinations(sorted(tensors), 2):
            if tensors[one].shape == tensors[other].shape and not np.array_equal(tensors[one], tensors[other]):
                save_file({**tensors, one: tensors[other], other: tensors[one]}, out.parent / "other", {"format": "pt"})
                yield from written(shard, (out.parent / "other").read_bytes(), f"{one} and {other} exchanged")


Kind = Callable[[Path, int], Planted]
KINDS: dict[str, tuple[Kind, dict[str, bool]]] = {
    "a flipped bit in a header": (in_headers, {"numbers": False}),
    "a flipped bit in the index": (in_index, {"numbers": False}),
    "a flipped bit in the data, with --hash": (in_data, {"numbers": False, "hashes": True}),
    "a flipped bit in a companion, with --hash": (in_companions, {"numbers": False, "hashes": True}),
    "a file cut off": (truncated, {"numbers": False}),
    "a file too long": (longer, {"numbers": False}),
    "pages of zeros, with --hash": (zeroed, {"numbers": False, "hashes": True}),
    "a file missing": (missing, {"numbers": False}),
    "shards swapped": (swapped, {"numbers": False}),
    "a stale shard, with --hash": (stale, {"numbers": False, "hashes": True}),
    "tensors exchanged, with --hash": (exchanged, {"numbers": False, "hashes": True}),
    "a number not finite": (not_finite, {}),
}


def missed(out: Path, name: str, step: int) -> tuple[list[str], int]:
    """Which of a kind were not found, and how many there were."""
    plant, options = KINDS[name]
    verdicts = {what: verify(place, workers=1, **options).ok for what, place in plant(out, step)}
    assert verify(out, workers=1, hashes=True).spotless, "all was mended again"
    return [what for what, passed in verdicts.items() if passed], len(verdicts)


@pytest.mark.parametrize("name", KINDS)
def test_some_of_every_kind_are_found(out: Path, name: str) -> None:
    escaped, count = missed(out, name, step=97)
    assert count
    assert escaped == []


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_all_of_every_kind_are_found(out: Path, name: str) -> None:
    """In every byte of headers, index and companions."""
    escaped, count = missed(out, name, step=1)
    assert escaped == []
    note("corruptions", {"kind": name, "found": count})


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("tied", [False, True])
def test_clean_outputs_pass(tmp_path: Path, tied: bool, dtype: str | None) -> None:
    merged(tmp_path, tied)
    models = [str(tmp_path / name) for name in ("a", "b")]
    for k, recipe in enumerate(
        (
            {"method": "linear", "models": models},
            {"method": "ties", "base": str(tmp_path / "base"), "models": models, "parameters": {"density": 0.3}},
            {"method": "task_arithmetic", "base": str(tmp_path / "base"), "models": models},
        )
    ):
        place = tmp_path / f"clean-{k}"
        weft.merge_to({**recipe, "output": {"dtype": dtype, "shard_size": "20kB"}}, place, hashes=True)
        assert verify(place, workers=1, hashes=True).findings == ()
