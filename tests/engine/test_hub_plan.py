"""A plan of models on the Hub: kilobytes are served where the models have megabytes, and what is left open is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints.adapters import factors, written
from tests.hub_client import Client
from tests.hub_server import ACCESS, HubServer
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import NumbersAbsentError
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.errors import InputError
from weft.recipes.loading import make_recipe

pytestmark = pytest.mark.slow

ROWS, WIDTH = 600, 500
SIZE = 4 * ROWS * WIDTH
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
EQUAL, TIED = "whether these are equal in every input", "which tensors of equal shape are tied"


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
    other = Client(client.url, client.cache.parent, HF_HUB_OFFLINE="1")
    yield other
    other.close()


@dataclass(frozen=True)
class Planned:
    """What a plan came to."""

    outputs: dict[str, str]
    aliases: set[tuple[str, ...]]
    download: int
    doubts: tuple[str, ...]
    warnings: tuple[str, ...]


def planned(parts: dict[str, Any], token: str = "") -> Planned:
    """Run in the client's process."""
    with pytest.MonkeyPatch.context() as patch:
        if token:
            patch.setenv("HF_TOKEN", token)
        recipe = make_recipe(parts)
        inputs = open_inputs(recipe, headers_only=True)
        plan = make_plan(recipe, inputs)
    outputs = {spec.name: str(spec) for spec in plan.outputs}
    aliases = {item.aliases for item in plan.items if item.aliases}
    inputs.close()
    return Planned(outputs, aliases, inputs.download_bytes, inputs.doubts(), plan.warnings)


def complaint(client: Client, parts: dict[str, Any], token: str = "") -> str:
    with pytest.raises(InputError) as caught:
        client.run(planned, parts, token)
    return str(caught.value)


def linear(*models: str, **more: Any) -> dict[str, Any]:
    return {"method": "linear", "models": list(models), **more}


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (ROWS, WIDTH)).astype(np.float32)


def model(folder: Path, seed: int, **more: np.ndarray) -> Path:
    """Three matrices, of which two have one shape; a config; a tokenizer."""
    folder.mkdir()
    tensors = {"embed": numbers(seed), "head": numbers(seed + 100), "fc": numbers(seed + 200, WIDTH, WIDTH)}
    save_file({**tensors, **more}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"vocab_size": ROWS}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {f"word{i}": i for i in range(ROWS)}}}))
    (folder / "README.md").write_text("long " * 1000)
    return folder


def weight_transfers(server: HubServer, name: str) -> list[int]:
    """How many bytes were asked for in each request of a repository's weights."""
    seen = [seen for seen in server.seen if seen.method == "GET" and seen.path.startswith(f"/cdn/{name}/")]
    return [-1 if one.stop is None else one.stop - one.start for one in seen]


def test_a_plan_costs_kilobytes(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("base", "a", "b")):
        server.add(f"cheap/{name}", model(tmp_path / name, k))
    before = server.served
    told = client.run(planned, {"method": "ties", "base": "cheap/base", "models": ["cheap/a", "cheap/b@main"]})
    assert told.outputs == {
        "embed": f"float32 [{ROWS}, {WIDTH}]",
        "fc": f"float32 [{WIDTH}, {WIDTH}]",
        "head": f"float32 [{ROWS}, {WIDTH}]",
    }
    assert told.warnings == told.doubts == ()
    whole = sum(path.stat().st_size for name in ("base", "a", "b") for path in (tmp_path / name).iterdir())
    assert told.download == whole
    assert server.served - before < 250_000 < whole / 30
    assert all(
        0 < count <= 1 << 16 for name in ("base", "a", "b") for count in weight_transfers(server, f"cheap/{name}")
    )
    assert server.fetched("cheap/a") == {"config.json", "model.safetensors"}
    assert {seen.token for seen in server.seen if seen.path.startswith("/cdn/")} == {""}, "the store is given no token"


def test_tokenizers_are_fetched_where_they_differ(server: HubServer, client: Client, tmp_path: Path) -> None:
    server.add("words/a", model(tmp_path / "a", 0))
    other = model(tmp_path / "b", 1)
    vocabulary = {f"word{i}": i for i in range(ROWS)} | {"word7": 8, "word8": 7}
    (other / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    server.add("words/b", other)
    told = client.run(planned, linear("words/a", "words/b"))
    assert "2 rows of the vocabulary belong to different tokens" in " ".join(told.warnings)
    assert "tokenizer.json" in server.fetched("words/a") & server.fetched("words/b")


def test_small_tensors_are_compared_and_large_ones_put_off(server: HubServer, client: Client, tmp_path: Path) -> None:
    small, large = np.arange(512), np.ones((512, 512), bool)
    for k, name in enumerate(("a", "b")):
        server.add(f"masks/{name}", model(tmp_path / name, k, places=small, mask=large))
    server.add("masks/moved", model(tmp_path / "moved", 3, places=small + 1, mask=large))
    told = client.run(planned, linear("masks/a", "masks/b"))
    assert told.doubts == (f"open until the weights are downloaded: {EQUAL}, as they must be to pass through: mask",)
    assert weight_transfers(server, "masks/a").count(small.nbytes) == 1
    text = complaint(client, linear("masks/a", "masks/moved"))
    assert "tensor 'places' (int64 [512]) is not a float and differs between" in text


def test_tied_tensors_are_recognised_by_samples(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        server.add(f"tied/{name}", model(tmp_path / name, k, head=numbers(k)))
    told = client.run(planned, linear("tied/a", "tied/b"))
    assert told.aliases == {("head",)}
    assert told.doubts == (f"open until the weights are downloaded: {TIED}, among them head",)


def test_many_layers_are_not_sampled_one_by_one(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        layers = {f"layers.{i}": numbers(i + 10 * k, 64, 64) for i in range(40)}
        server.add(f"deep/{name}", model(tmp_path / name, k, **layers))
    told = client.run(planned, linear("deep/a", "deep/b"))
    assert len(told.doubts) == 1
    assert TIED in told.doubts[0]
    assert len(weight_transfers(server, "deep/a")) < 12


def test_shards_are_looked_into_and_compared_with_their_index(
    server: HubServer, client: Client, tmp_path: Path
) -> None:
    for k, name in enumerate(("a", "b")):
        folder = tmp_path / name
        folder.mkdir()
        for number, shard in enumerate(SHARDS):
            save_file({f"w{number}": numbers(k + number)}, folder / shard)
        index = {"weight_map": {f"w{n}": shard for n, shard in enumerate(SHARDS)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        server.add(f"shards/{name}", folder)
    told = client.run(planned, linear("shards/a", "shards/b"))
    assert list(told.outputs) == ["w0", "w1"]
    assert told.download > 4 * SIZE
    index["weight_map"]["w1"] = SHARDS[0]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    server.add("shards/b", folder)
    text = complaint(client, linear("shards/a", "shards/b"))
    assert f"says that 'w1' is in {SHARDS[0]}, which does not hold it" in text
    (folder / SHARDS[1]).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w0": SHARDS[0], "w1": SHARDS[1]}}))
    server.add("shards/b", folder)
    what = f"shards/b: 1 shards that model.safetensors.index.json lists are not in the repository: {SHARDS[1]}"
    assert what in complaint(client, linear("shards/a", "shards/b"))


def test_a_long_header_costs_one_request_more(server: HubServer, client: Client, tmp_path: Path) -> None:
    many = {f"a.tensor.with.a.rather.long.name.{i}": np.zeros(1, np.float32) for i in range(1500)}
    for k, name in enumerate(("a", "b")):
        server.add(f"long/{name}", model(tmp_path / name, k, **many))
    assert len(client.run(planned, linear("long/a", "long/b")).outputs) == 1503
    first, second, *_ = weight_transfers(server, "long/a")
    assert first == 1 << 16 < first + second < 1 << 18


def test_what_is_in_the_cache_is_read_there(server: HubServer, client: Client, offline: Client, tmp_path: Path) -> None:
    mask = np.ones((512, 512), bool)
    for k, name in enumerate(("a", "b")):
        server.add(f"kept/{name}", model(tmp_path / name, k, mask=mask))
        client.fetch(f"kept/{name}")
    transferred, asked = weight_transfers(server, "kept/a"), len(server.seen)
    told = client.run(planned, linear("kept/a", "kept/b"))
    assert (told.download, told.doubts) == (0, ())
    assert weight_transfers(server, "kept/a") == transferred
    asked = len(server.seen)
    assert offline.run(planned, linear("kept/a", "kept/b")) == told
    assert len(server.seen) == asked


def test_offline_a_plan_does_not_make_do_with_a_config(
    server: HubServer, client: Client, offline: Client, tmp_path: Path
) -> None:
    for k, name in enumerate(("a", "b")):
        server.add(f"partly/{name}", model(tmp_path / name, k))
    client.run(planned, linear("partly/a", "partly/b"))
    text = complaint(offline, linear("partly/a", "partly/b"))
    assert "partly/a: HF_HUB_OFFLINE is set, and the copy in the cache, " in text
    assert "lacks weights" in text


def test_a_shard_that_is_here_is_not_asked_for(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        folder = tmp_path / name
        folder.mkdir()
        for number, shard in enumerate(SHARDS):
            save_file({f"w{number}": numbers(k + number)}, folder / shard)
        index = {"weight_map": {f"w{n}": shard for n, shard in enumerate(SHARDS)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        server.add(f"half/{name}", folder)
    here = client.fetch("half/a").path
    (here / SHARDS[1]).resolve().unlink()
    (here / SHARDS[1]).unlink()
    transferred = len(server.transfers("half/a", SHARDS[0]))
    told = client.run(planned, linear("half/a", "half/b"))
    assert len(server.transfers("half/a", SHARDS[0])) == transferred
    sizes = [(tmp_path / "a" / SHARDS[1]).stat().st_size, *(p.stat().st_size for p in (tmp_path / "b").iterdir())]
    index_here = (tmp_path / "b" / "model.safetensors.index.json").stat().st_size
    assert told.download == sum(sizes) - index_here


def test_pickles_have_no_header(server: HubServer, client: Client, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name, count in (("small", 1000), ("large", 13_000_000)):
        folder = tmp_path / name
        folder.mkdir()
        torch.save({"w": torch.zeros(count)}, folder / "pytorch_model.bin")
        server.add(f"pickles/{name}", folder)
    told = client.run(planned, linear("pickles/small"))
    assert told.outputs == {"w": "float32 [1000]"}
    text = complaint(client, linear("pickles/large"))
    assert "pickles/large: its weights are torch pickles (pytorch_model.bin), whose tensors are known only once" in text
    assert ": 0.05 GB to download\n  -> fetch them for the plan: `hf download pickles/large`; or name a rev" in text
    assert server.transfers("pickles/large", "pytorch_model.bin") == []
    client.fetch("pickles/large")
    assert client.run(planned, linear("pickles/large")).outputs == {"w": "float32 [13000000]"}


def test_an_adapter_stays_there_too(server: HubServer, client: Client, tmp_path: Path) -> None:
    server.add("lora/base", model(tmp_path / "base", 0, **{"up.weight": numbers(5, WIDTH, WIDTH)}))
    tensors = factors(np.random.default_rng(1), "up", (WIDTH,), WIDTH, rank=64)
    server.add("lora/adapter", written(tmp_path / "adapter", tensors, r=64))
    parts = {"method": "linear", "models": ["lora/base", {"path": "lora/base", "adapter": "lora/adapter", "name": "b"}]}
    told = client.run(planned, parts)
    assert told.outputs["up.weight"] == f"float32 [{WIDTH}, {WIDTH}]"
    base = sum(p.stat().st_size for p in (tmp_path / "base").iterdir() if p.suffix in (".safetensors", ".md"))
    weights = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert base + weights <= told.download <= base + weights + 20_000, "the base counts once"
    assert max(weight_transfers(server, "lora/adapter")) <= 1 << 16 < weights
    assert "lora/adapter: this is an adapter, not a model" in complaint(client, linear("lora/adapter"))


def test_gated_models_and_tokens(server: HubServer, client: Client, tmp_path: Path) -> None:
    server.add("closed/a", model(tmp_path / "a", 0), gated=True)
    assert "closed/a: the repository is gated, and you are not logged in" in complaint(client, linear("closed/a"))
    assert len(client.run(planned, linear("closed/a"), ACCESS).outputs) == 3


def test_a_mirror_that_sends_whole_files_only(
    server: HubServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, name in enumerate(("a", "b")):
        server.add(f"mirror/{name}", model(tmp_path / name, k))
    monkeypatch.setattr(server, "ranges", False)
    text = complaint(client, linear("mirror/a", "mirror/b"))
    assert f"mirror/a: {client.url} sends files only whole, so that model.safetensors cannot be looked into" in text
    assert "-> fetch the whole files first: `hf download mirror/a`" in text


def test_a_transfer_that_breaks_is_tried_again(server: HubServer, client: Client, tmp_path: Path) -> None:
    server.add("broken/a", model(tmp_path / "a", 0))
    server.cut("broken/a", "model.safetensors", after=100)
    assert len(client.run(planned, linear("broken/a")).outputs) == 3
    assert server.transfers("broken/a", "model.safetensors")[:2] == [0, 0]


def test_a_damaged_header_is_told_from_afar(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = model(tmp_path / "a", 0)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])
    server.add("damaged/a", folder)
    text = complaint(client, linear("damaged/a"))
    assert "damaged/a/model.safetensors" in text
    assert "download or save it again" in text
    (folder / "model.safetensors").write_bytes(content)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    (folder / "model.safetensors").rename(folder / "another.safetensors")
    server.add("damaged/a", folder)
    what = "damaged/a: holds several checkpoints, or shards without an index: another.safetensors, other.safetensors"
    assert what in complaint(client, linear("damaged/a"))


def test_quantised_models_are_refused_before_a_download(server: HubServer, client: Client, tmp_path: Path) -> None:
    folder = model(tmp_path / "a", 0)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    server.add("quantised/a", folder)
    assert "is quantised with GPTQ, 4 bit" in complaint(client, linear("quantised/a"))


def _reading_all(hub_id: str) -> str:
    checkpoint: Checkpoint = open_inputs(make_recipe(linear(hub_id)), headers_only=True).models[0]
    with pytest.raises(NumbersAbsentError) as caught:
        checkpoint.read("embed", 0, ROWS * WIDTH, np.empty(SIZE, np.uint8))
    return str(caught.value)


def test_numbers_that_are_not_there_are_not_read(server: HubServer, client: Client, tmp_path: Path) -> None:
    server.add("absent/a", model(tmp_path / "a", 0))
    text = client.run(_reading_all, "absent/a")
    assert text.startswith(
        f"absent/a: the numbers of tensor 'embed' (float32 [{ROWS}, {WIDTH}]) in absent/a/model.safe"
    )
    assert text.endswith("-> merge, which downloads them; or fetch them for the plan: hf download absent/a")


def test_all_downloads_together_must_find_room(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        server.add(f"room/{name}", model(tmp_path / name, k))
    with pytest.raises(InputError) as caught:
        client.run(_on_a_small_disk, linear("room/a", "room/b"), 5_000_000)
    assert "room/a, room/b: the download needs 0.01 GB, but the disk of" in str(caught.value)
    assert client.run(_on_a_small_disk, linear("room/a", "room/b"), 8_000_000).download > 6_000_000


def _on_a_small_disk(parts: dict[str, Any], free: int) -> Planned:
    usage = shutil.disk_usage(Path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        return planned(parts)


def test_a_pipeline(server: HubServer, client: Client, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        for part in ("unet", "vae"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "config.json").write_text(json.dumps({"_class_name": part}))
            save_file({"w": numbers(k)}, tmp_path / name / part / "diffusion_pytorch_model.safetensors")
        listing = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "other": [None, None]}
        (tmp_path / name / "model_index.json").write_text(json.dumps(listing))
        server.add(f"pipes/{name}", tmp_path / name)
    told = client.run(planned, linear("pipes/a", "pipes/b"))
    assert set(told.outputs) == {"unet/w", "vae/w"}
    assert told.download > 4 * SIZE
