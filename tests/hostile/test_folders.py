"""Folders with pipes, devices and links, indices that lead out of them, and configurations that are anything but."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hostile.limited import MEGABYTE, limited, opened
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

W = {"w": np.ones((2, 2), np.float32)}
INDEX = "model.safetensors.index.json"


def complaint(source: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(source)
    said = str(caught.value)
    assert "->" in said
    assert len(said) < 20_000
    assert said.replace("\n", "").isprintable()
    return said


def indexed(folder: Path, weight_map: object, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(W, folder / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map, **more}))
    return folder


# --- indices ----------------------------------------------------------------------------------------------------------

OUTSIDE = (
    "../a.safetensors",
    "/etc/passwd",
    "/dev/zero",
    "..",
    ".",
    "",
    "./a.safetensors",
    "b/a.safetensors",
    "b/../a.safetensors",
    "..\\a.safetensors",
    "C:\\a.safetensors",
    "C:a.safetensors",
    "\\\\host\\share\\a.safetensors",
    "a.safetensors/",
    "a\0.safetensors",
    "a\n.safetensors",
    "\x1b[2J.safetensors",
    "a" * 300 + ".safetensors",
    "a.safetensors:stream",
    "file:///a.safetensors",
    "https://host/a.safetensors",
)


@pytest.mark.parametrize("shard", OUTSIDE, ids=ascii)
def test_an_index_cannot_leave_its_folder(tmp_path: Path, shard: str) -> None:
    save_file(W, tmp_path / "a.safetensors")
    assert "is not a plain file name" in complaint(indexed(tmp_path / "m", {"w": shard}))


@pytest.mark.parametrize("target", ["../secret.safetensors", "/etc/passwd", "/dev/zero", "/proc/self/mem", "~"])
def test_an_index_cannot_leave_its_folder_through_a_link(tmp_path: Path, target: str) -> None:
    save_file(W, tmp_path / "secret.safetensors")
    folder = indexed(tmp_path / "m", {"w": "b.safetensors"})
    (folder / "b.safetensors").symlink_to(str(tmp_path / "secret.safetensors") if target == "~" else target)
    said = complaint(folder)
    assert "shard 'b.safetensors' is a link that leads out of the folder, to /" in said
    assert "put the file itself there" in said


def test_links_within_a_folder_and_into_the_hub_cache_are_followed(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", {"w": "b.safetensors"})
    (folder / "b.safetensors").symlink_to("a.safetensors")
    open_checkpoint(folder).close()
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    (tmp_path / "models--org--name" / "blobs").mkdir(parents=True)
    save_file(W, tmp_path / "models--org--name" / "blobs" / "cafe")
    snapshot.mkdir(parents=True)
    indexed(snapshot, {"w": "b.safetensors"})
    (snapshot / "b.safetensors").symlink_to("../../blobs/cafe")
    open_checkpoint(snapshot).close()


def test_links_in_a_loop(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", {"w": "b.safetensors"})
    (folder / "b.safetensors").symlink_to("c.safetensors")
    (folder / "c.safetensors").symlink_to("b.safetensors")
    assert "b.safetensors: is a link to" in complaint(folder)
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in complaint(tmp_path / "loop")


WRONG: dict[str, tuple[object, str]] = {
    "a list": ([], "has no weight_map"),
    "nothing": (None, "has no weight_map"),
    "empty": ({}, "has no weight_map"),
    "numbers": ({"w": 1}, "has no weight_map"),
    "lists": ({"w": ["a.safetensors"]}, "has no weight_map"),
    "another shard": (
        {"w": "a.safetensors", "v": "a.safetensors"},
        "says that 'v' is in a.safetensors, which does not",
    ),
    "another kind of file": ({"w": "config.json"}, "is not a .safetensors file"),
    "a name to clear the screen": ({"\x1b[2J": "a.safetensors"}, "says that '\\x1b[2J' is in"),
    "half of a surrogate pair": ({"\ud800": "a.safetensors"}, "half of a surrogate pair"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_indices_that_are_wrong(tmp_path: Path, kind: str) -> None:
    weight_map, says = WRONG[kind]
    assert says in complaint(indexed(tmp_path, weight_map))


@pytest.mark.slow
def test_an_index_of_a_million_entries(tmp_path: Path) -> None:
    many = {f"layers.{k}.weight": "a.safetensors" for k in range(1_000_000)}
    outcome = opened(indexed(tmp_path / "m", many), torch=False)
    assert "102 problems:" in outcome.said
    assert "and 82 more" in outcome.said
    assert outcome.memory < 600 * MEGABYTE
    files = {f"w{k}": f"{k}.safetensors" for k in range(1_000_000)}
    outcome = opened(indexed(tmp_path / "m", files), torch=False)
    assert "names 1,000,000 files, more than 10,000" in outcome.said


@pytest.mark.parametrize("text", ["[" * 10**6, '{"weight_map":' * 10**5, "9" * 10**6, "\xff", '{"weight_map": {"w": "'])
def test_an_index_that_is_no_json(tmp_path: Path, text: str) -> None:
    indexed(tmp_path, {})
    (tmp_path / INDEX).write_text(text, "latin1")
    assert "cannot be read as JSON" in complaint(tmp_path)


def test_an_index_without_end(tmp_path: Path) -> None:
    indexed(tmp_path, {})
    with (tmp_path / INDEX).open("r+b") as file:
        file.truncate(1 << 40)
    outcome = opened(tmp_path, torch=False)
    assert "it is longer than 200 MB" in outcome.said
    assert outcome.memory < 450 * MEGABYTE


# --- what is no file --------------------------------------------------------------------------------------------------

ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pt", INDEX])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_under_the_name_of_one(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    ODD[kind](path)
    for place in (path, tmp_path):
        outcome = opened(place, torch=False, seconds=20)
        assert outcome.kind == "InputError"
        assert name in outcome.said or kind == "a folder"
        assert outcome.memory < 100 * MEGABYTE


@pytest.mark.parametrize("name", ["config.json", "quantize_config.json", "model_index.json", "adapter_config.json"])
@pytest.mark.parametrize("kind", ODD)
def test_a_configuration_that_is_no_file(tmp_path: Path, kind: str, name: str) -> None:
    save_file(W, tmp_path / "model.safetensors")
    ODD[kind](tmp_path / name)
    outcome = opened(tmp_path, torch=False, seconds=20)
    assert outcome.kind in ("passed", "InputError")
    assert outcome.memory < 100 * MEGABYTE


def test_a_pipe_in_an_index(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", {"w": "p.safetensors"})
    os.mkfifo(folder / "p.safetensors")
    assert "1 of 1 shards are missing: p.safetensors" in opened(folder, torch=False).said


PLACES = ("a" * 5000, "a/" * 3000, "a\0b", "\ud800", "/dev/null/x", "\x1b[2J", "a\nb")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ascii(place[:9]))
def test_paths_that_cannot_be(place: str) -> None:
    complaint(place)


def test_names_of_files_do_not_reach_a_terminal_raw(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in (b"\x1b[2Jx.txt", b"\xff.txt", b"a\rb.txt"):
        (tmp_path / os.fsdecode(b"m/" + name)).write_bytes(b"x")
    command = [sys.executable, "-m", "weft", "merge", "-m", "linear", str(tmp_path / "m"), str(tmp_path / "m"), "-o"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"no weights in it" in done.stderr
    shown = (done.stdout + done.stderr).decode("utf-8")
    assert shown.replace("\n", "").isprintable()


# --- configurations ---------------------------------------------------------------------------------------------------

CONFIGS: dict[str, bytes] = {
    "deep": b"[" * 10**6,
    "deep maps": b'{"a":' * 10**6,
    "a list": b"[]",
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "a number of a million digits": b"9" * 10**6,
    "a number of four thousand digits": b'{"vocab_size": ' + b"9" * 4000 + b', "quantization_config": {"bits": 4}}',
    "infinite": b'{"vocab_size": 1e999, "text_config": NaN}',
    "half of a surrogate pair": b'{"model_type": "\\ud800"}',
    "wrong types": json.dumps({k: [[[1]]] for k in ("quantization_config", "text_config", "architectures")}).encode(),
    "quantised, of wrong types": b'{"quantization_config": {"quant_method": [1], "bits": {}, "config_groups": 3}}',
    "quantised, with escapes": b'{"quantization_config": {"quant_method": "\\u001b[2J", "bits": true}}',
    "a tied embedding of wrong types": b'{"tie_word_embeddings": [], "text_config": {"tie_word_embeddings": {}}}',
    "blocks of wrong types": b'{"quantization_config": {"quant_method": "fp8", "weight_block_size": [[], -1]}}',
}
NAMES = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer.json",
    "vocab.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "modules.json",
    "model_index.json",
    "generation_config.json",
    INDEX,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations(tmp_path: Path, kind: str, name: str) -> None:
    """A merge, so that everything that looks at them does: it ends well or with a message, never otherwise."""
    import weft

    for model in ("a", "b"):
        (tmp_path / model).mkdir()
        save_file({"embed": np.ones((4, 2), np.float32)}, tmp_path / model / "model.safetensors")
        (tmp_path / model / name).write_bytes(CONFIGS[kind])
    recipe = weft.Recipe(method="linear", models=[tmp_path / "a", tmp_path / "b"], output={"dtype": "bfloat16"})
    said = ""
    try:
        weft.merge_to(recipe, tmp_path / "out")
    except weft.WeftError as error:
        said = str(error)
    assert said.replace("\n", "").isprintable()
    assert len(said) < 5000


@pytest.mark.parametrize("name", [*NAMES, "weft.lock.json", "vocab.txt", "chat_template.jinja"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations_are_found_out(tmp_path: Path, kind: str, name: str) -> None:
    """`weft verify` looks at everything: it gives its findings, or a message."""
    from weft.inspection.verify import verify

    save_file({"embed": np.ones((4, 2), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (tmp_path / name).write_bytes(CONFIGS[kind])
    with contextlib.suppress(InputError):
        verify(tmp_path)


ADAPTERS: dict[str, dict[str, object]] = {
    "a rank of wrong type": {"r": [8]},
    "a rank of four thousand digits": {"r": 10**4000},
    "an infinite alpha": {"lora_alpha": float("inf")},
    "an alpha beyond floats": {"lora_alpha": 10**400},
    "patterns of wrong type": {"rank_pattern": [["a", 1]]},
    "a broken pattern": {"alpha_pattern": {"(": 1}},
    "a pattern nested too deeply": {"alpha_pattern": {"(" * 450 + ")" * 450: 1}},
    "a pattern of a million characters": {"alpha_pattern": {"a" * 10**6: 1}},
    "a pattern of repetitions": {"alpha_pattern": {"(?:(?:a{1000}){1000}){1000}": 1}},
    "modules of wrong type": {"modules_to_save": {"a": 1}},
    "a name to clear the screen": {"init_lora_weights": "\x1b[2J"},
    "another kind": {"peft_type": "\x1b[2J" * 100_000},
    "a kind that is a list": {"peft_type": []},
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters(tmp_path: Path, kind: str) -> None:
    from weft.checkpoints.lora_config import read_config

    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, **ADAPTERS[kind]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / "adapter_config.json")
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 5000


@pytest.mark.slow
def test_an_adapters_pattern_that_takes_for_ever(tmp_path: Path) -> None:
    body = "Expression(sys.argv[1]).fits('a' * 60 + '!')"
    outcome = limited(body, r"(?:.*\.)?(?:a+!?)", imports="from weft.checkpoints.patterns import Expression")
    assert outcome.kind == "passed"
    outcome = limited(body, r"(?:(a|aa)+b?)", imports="from weft.checkpoints.patterns import Expression")
    assert "takes more than 10 s to match; it was at 'aaa" in outcome.said
    assert "write it without a repetition inside a repetition" in outcome.said
