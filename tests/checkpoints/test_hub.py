"""Fetching from the Hub: what arrives, and every way in which fetching fails, against a local server."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub_client import Client
from tests.hub_server import ACCESS, EXPIRED, HubServer
from weft.checkpoints.hub import fetch
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    pytest.importorskip("huggingface_hub")
    with HubServer().running() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(server.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(client: Client) -> Iterator[Client]:
    """The same cache, and no wish to ask."""
    other = Client(client.url, client.cache.parent, HF_HUB_OFFLINE="1")
    yield other
    other.close()


@pytest.fixture(scope="module")
def severed(client: Client) -> Iterator[Client]:
    """The same cache, and nobody who answers."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        other = Client(f"http://127.0.0.1:{unheard.getsockname()[1]}", client.cache.parent)
        yield other
        other.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with one safetensors file, companions and copies."""
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    save_file({"w": np.arange(6, dtype=np.float32)}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    for name in ("pytorch_model.bin", "onnx/model.onnx", ".gitattributes"):
        (folder / name).write_bytes(b"unwanted " * 100)
    return folder


def sharded(folder: Path, size: int = 1000) -> Path:
    folder.mkdir()
    for number, name in enumerate(SHARDS):
        save_file({f"w{number}": np.full(size, number, np.uint8)}, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{n}": name for n, name in enumerate(SHARDS)}}))
    (folder / "config.json").write_text("{}")
    return folder


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same(fetched: Path, folder: Path) -> bool:
    return all((fetched / name).read_bytes() == (folder / name).read_bytes() for name in held(fetched))


# Fetching.


def test_a_model_is_fetched_once_with_what_a_merge_needs(server: HubServer, client: Client, model: Path) -> None:
    commit = server.add("org/plain", model)
    fetched = client.fetch("org/plain")
    assert (fetched.commit, fetched.revision, fetched.note) == (commit, "main", "")
    assert fetched.pinned == f"org/plain@{commit}"
    assert fetched.path == client.cache / "models--org--plain" / "snapshots" / commit
    assert held(fetched.path) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert same(fetched.path, model)
    assert server.fetched("org/plain") == held(fetched.path)
    assert client.fetch("org/plain") == client.run(fetch, "org/plain") == fetched
    assert len(server.transfers("org/plain", "model.safetensors")) == 1


def test_shards_and_their_index(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    (folder / "consolidated.safetensors").write_bytes(b"a copy")
    server.add("org/shards", folder)
    fetched = client.fetch("org/shards")
    assert held(fetched.path) == {"config.json", INDEX, *SHARDS}
    assert same(fetched.path, folder)
    assert set(open_checkpoint(fetched.path).tensors) == {"w0", "w1"}


def test_a_pipeline_of_more_files_than_a_page_lists(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for part in ("unet", "vae", "text_encoder", "safety_checker"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        save_file({part: np.ones(3, np.float32)}, folder / part / "diffusion_pytorch_model.safetensors")
        (folder / part / "diffusion_pytorch_model.bin").write_bytes(b"copy")
    (folder / "model_index.json").write_text("{}")
    (folder / "all-in-one.safetensors").write_bytes(b"copy")
    server.add("org/pipeline", folder)
    fetched = client.fetch("org/pipeline").path
    assert held(fetched) == {name for name in held(folder) if not name.endswith(".bin")} - {"all-in-one.safetensors"}
    assert same(fetched, folder)


def test_torch_weights_if_there_is_nothing_better(server: HubServer, client: Client, model: Path) -> None:
    (model / "model.safetensors").unlink()
    server.add("org/torch", model)
    assert held(client.fetch("org/torch").path) == {"config.json", "tokenizer.json", "pytorch_model.bin"}


def test_revisions_are_resolved_to_commits(server: HubServer, client: Client, model: Path, tmp_path: Path) -> None:
    old = server.add("org/two", model, "v1.0")
    newer = shutil.copytree(model, tmp_path / "newer")
    (newer / "config.json").write_text("{}")
    new = server.add("org/two", newer)
    assert client.fetch("org/two@v1.0").commit == old != new
    assert client.fetch("org/two").commit == new
    fetched = client.fetch(f"org/two@{old}")
    assert (fetched.commit, fetched.revision) == (old, old)
    assert len(server.transfers("org/two", "model.safetensors")) == 1, "both revisions share the weights"


def test_names_that_look_like_patterns(server: HubServer, client: Client, model: Path) -> None:
    (model / "vocab[1].json").write_text("{}")
    server.add("org/odd", model)
    assert "vocab[1].json" in held(client.fetch("org/odd").path)


@pytest.mark.slow
def test_progress_counts_bytes(
    server: HubServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded(tmp_path / "model", 24_000_000)
    server.add("org/big", folder)
    monkeypatch.setattr(server, "pace", 0.05)
    total = sum((folder / name).stat().st_size for name in held(folder))
    _, reports = client.reported("org/big")
    counts = [done for _, done, _ in reports]
    assert {(who, whole) for who, _, whole in reports} == {("org/big", total)}
    assert counts == sorted(counts)
    assert counts[0] < 1000
    assert counts[-1] == total
    assert any(1000 < count < 24_000_000 for count in counts), "told while the first shard arrives"
    assert client.reported("org/big")[1][0] == ("org/big", total, total)


# What goes wrong on the way.


@pytest.mark.slow
def test_a_transfer_that_is_cut_goes_on_where_it_stopped(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", 30_000_000)
    server.add("org/cut", folder)
    server.cut("org/cut", SHARDS[1], after=15_000_000)
    fetched = client.fetch("org/cut")
    assert same(fetched.path, folder)
    first, second = server.transfers("org/cut", SHARDS[1])
    assert first == 0
    assert 0 < second <= 15_000_000


@pytest.mark.slow
def test_a_connection_that_is_reset_is_tried_again(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", 3_000_000)
    server.add("org/reset", folder)
    server.cut("org/reset", SHARDS[0], after=1_000_000, rudely=True)
    fetched = client.fetch("org/reset")
    assert same(fetched.path, folder)
    assert held(fetched.path) == held(folder)
    assert len(server.transfers("org/reset", SHARDS[0])) == 2
    assert len(server.transfers("org/reset", SHARDS[1])) == 1, "what is complete is kept"


def test_no_such_repository(client: Client, tmp_path: Path) -> None:
    text = client.complaint("org/missing", here=tmp_path)
    assert f"org/missing: no such file or folder here, and no such repository at {client.url}" in text
    assert "-> check the name, or log in if it is private: `hf auth login`, or set HF_TOKEN" in text


def test_a_folder_that_was_meant(client: Client, tmp_path: Path) -> None:
    (tmp_path / "experts" / "german").mkdir(parents=True)
    text = client.complaint("experts/germna", here=tmp_path)
    assert "-> did you mean 'experts/german'? Otherwise check the name" in text


def test_a_private_repository_needs_a_token(server: HubServer, client: Client, model: Path) -> None:
    commit = server.add("org/private", model, private=True)
    assert "log in if it is private" in client.complaint("org/private")
    assert "log in if it is private" in client.complaint("org/private", "hf_of_somebody_else")
    assert client.fetch("org/private", ACCESS).commit == commit


def test_a_gated_repository_says_how_to_get_in(server: HubServer, client: Client, model: Path) -> None:
    commit = server.add("org/gated", model, gated=True)
    text = client.complaint("org/gated")
    assert "org/gated: the repository is gated, and you are not logged in" in text
    assert f"-> ask for access at {client.url}/org/gated, then log in with `hf auth login` or set HF_TOKEN" in text
    text = client.complaint("org/gated", "hf_of_somebody_else")
    assert "org/gated: the repository is gated, and your token has no access to it" in text
    assert "if it was granted, allow the token to read gated repositories" in text
    assert client.fetch("org/gated", ACCESS).commit == commit


def test_a_token_that_is_refused(server: HubServer, client: Client, model: Path) -> None:
    server.add("org/plain", model)
    text = client.complaint("org/plain", EXPIRED)
    assert f"org/plain: {client.url} refuses (HfHubHTTPError: " in text
    assert "`hf auth login`, or set HF_TOKEN" in text


def test_no_such_revision(server: HubServer, client: Client, model: Path) -> None:
    server.add("org/tagged", model, "v1.0")
    text = client.complaint("org/tagged@v1.00")
    assert "org/tagged: no branch, tag or commit 'v1.00'\n  -> did you mean 'v1.0'?" in text
    assert "the repository has: v1.0" in client.complaint("org/tagged@nightly")


def test_no_weights(server: HubServer, client: Client, model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").rename(model / "model-Q4_K_M.gguf")
    server.add("org/quantised", model)
    text = client.complaint("org/quantised")
    assert "org/quantised: no safetensors or .bin weights in this repository; it holds: .gitattributes" in text
    assert "-> GGUF files are made for inference: name the repository that they were converted from" in text
    (model / "model-Q4_K_M.gguf").unlink()
    server.add("org/empty", model)
    assert "-> name a repository that holds a model, or download the file you mean" in client.complaint("org/empty")


def test_a_disk_that_is_too_small(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", 30_000_000)
    server.add("org/heavy", folder)
    text = client.complaint("org/heavy", free=20_000_000)
    assert "org/heavy: the download needs 0.06 GB (0.06 GB in all, 0.00 GB in the cache), but the disk of" in text
    assert f"{client.cache} has 0.02 GB free" in text
    assert "-> free some space, or set HF_HOME to a folder on a larger disk" in text
    assert not server.transfers("org/heavy", SHARDS[0])
    blobs = client.cache / "models--org--heavy" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    sha256 = server.repositories["org/heavy"].revisions["main"][SHARDS[0]].sha256
    shutil.copy(folder / SHARDS[0], blobs / sha256)
    text = client.complaint("org/heavy", free=20_000_000)
    assert "needs 0.03 GB (0.06 GB in all, 0.03 GB in the cache)" in text
    assert held(client.reported("org/heavy", free=31_000_000)[0].path) == held(folder)
    assert client.reported("org/heavy", free=0)[0].commit, "what is here needs no room"


def _fetch_onto_a_full_disk(hub_id: str) -> None:
    import huggingface_hub

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", full)
        fetch(hub_id)


def test_a_disk_that_fills_up(server: HubServer, client: Client, model: Path) -> None:
    server.add("org/full", model)
    with pytest.raises(InputError) as caught:
        client.run(_fetch_onto_a_full_disk, "org/full")
    assert f"org/full: cannot write to the cache {client.cache}: No space left on device" in str(caught.value)
    assert "-> free some space, or set HF_HOME to a folder that you can write to" in str(caught.value)


# Without the Hub.


def test_offline_the_cache_is_used_in_silence(
    server: HubServer, client: Client, offline: Client, tmp_path: Path
) -> None:
    server.add("org/kept", sharded(tmp_path / "model"))
    online = client.fetch("org/kept")
    asked = len(server.seen)
    assert offline.fetch("org/kept") == online
    assert offline.fetch(f"org/kept@{online.commit}").path == online.path
    assert len(server.seen) == asked


def test_offline_and_not_in_the_cache(offline: Client, tmp_path: Path) -> None:
    text = offline.complaint("org/never", here=tmp_path)
    assert f"org/never: HF_HUB_OFFLINE is set, and it is not in the cache {offline.cache}" in text
    assert "-> unset HF_HUB_OFFLINE, or fetch it while there is a network: hf download org/never" in text


def test_offline_and_only_partly_in_the_cache(
    server: HubServer, client: Client, offline: Client, tmp_path: Path
) -> None:
    server.add("org/part", sharded(tmp_path / "model"))
    folder = client.fetch("org/part").path
    (folder / SHARDS[1]).unlink()
    assert f"HF_HUB_OFFLINE is set, and the copy in the cache, {folder}, lacks {SHARDS[1]}" in offline.complaint(
        "org/part"
    )
    (folder / INDEX).unlink()
    (folder / SHARDS[0]).unlink()
    assert f"{folder}, lacks weights" in offline.complaint("org/part")


def test_a_hub_that_does_not_answer_is_replaced_by_the_cache_with_a_note(
    server: HubServer, client: Client, severed: Client, model: Path, tmp_path: Path
) -> None:
    server.add("org/stale", model)
    online = client.fetch("org/stale")
    fetched = severed.fetch("org/stale")
    assert (fetched.path, fetched.commit) == (online.path, online.commit)
    assert fetched.note.startswith(f"org/stale: no answer from {severed.url} (")
    assert fetched.note.endswith(f"using the copy in the cache, commit {online.commit[:12]}, which may be old")
    text = severed.complaint("org/unseen", here=tmp_path)
    assert f"org/unseen: no answer from {severed.url} (" in text
    assert f"and it is not in the cache {severed.cache}" in text
    assert "-> check the network, HTTPS_PROXY and HF_ENDPOINT" in text


@pytest.mark.parametrize(("status", "said"), [(503, "503"), (429, "429")])
def test_a_hub_out_of_order(
    server: HubServer, client: Client, model: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    name = f"org/order-{status}"
    server.add(name, model)
    monkeypatch.setattr(server, "status", status)
    text = client.complaint(name)
    assert f"{name}: no answer from {client.url} (HfHubHTTPError: " in text
    assert said in text
    monkeypatch.undo()
    fetched = client.fetch(name)
    monkeypatch.setattr(server, "status", status)
    assert client.fetch(name).path == fetched.path
    assert client.fetch(name).note


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experts" / "german").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError) as caught:
        fetch("org/name@v1")
    text = "org/name: no such file or folder, and to fetch it from the Hub, huggingface_hub must be installed"
    assert str(caught.value) == f'{text}\n  -> pip install "weft[hub]"'
    with pytest.raises(InputError, match=r"did you mean 'experts/german'\? Otherwise pip install"):
        fetch("experts/germna")
