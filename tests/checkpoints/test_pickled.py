"""Torch pickles: every number in its place, nothing held that need not be, and no stranger's code run."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import weft
from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.pickled import PickledCheckpoint
from weft.errors import InputError, MergeError

Tensors = dict[str, torch.Tensor]

EVERY_FORMAT = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path: Path, content: Any, legacy: bool = False) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def opened(source: Path) -> PickledCheckpoint:
    checkpoint = open_checkpoint(source)
    assert isinstance(checkpoint, PickledCheckpoint)
    return checkpoint


def complaint(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(source)
    text = str(caught.value)
    assert str(source) in text
    assert "->" in text, "there is a remedy"
    return text


def bytes_of(checkpoint: PickledCheckpoint, name: str, step: int = 10**9) -> bytes:
    spec = checkpoint.tensors[name]
    buffer = np.empty(spec.nbytes + 8, np.uint8)
    ranges = [(start, min(start + step, spec.size)) for start in range(0, spec.size, step)]
    return b"".join(checkpoint.read(name, *r, buffer).tobytes() for r in ranges)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_number_format_is_read_bit_for_bit(tmp_path: Path, suffix: str, legacy: bool) -> None:
    formats = [dtype for dtype in EVERY_FORMAT if not (legacy and "float8" in str(dtype))]  # it is older than they are
    tensors = {str(dtype): (numbers(3, 5) * 9).to(dtype) for dtype in formats}
    tensors["scalar"] = torch.tensor(1.5)
    path = saved(tmp_path / f"x{suffix}", tensors, legacy)
    checkpoint = PickledCheckpoint(path, [path])
    assert {n: str(s) for n, s in checkpoint.tensors.items()} == {
        n: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for n, t in tensors.items()
    }
    assert all(bytes_of(checkpoint, name) == raw(tensor) for name, tensor in tensors.items())
    assert checkpoint.is_resident is legacy, "the old format cannot be read in ranges"
    checkpoint.close()


def test_empty_tensors_and_parameters(tmp_path: Path) -> None:
    tensors = {"e": torch.empty(0, 4), "p": torch.nn.Parameter(numbers(3)), "f": torch.empty(0)}
    checkpoint = opened(saved(tmp_path / "x.bin", tensors))
    assert bytes_of(checkpoint, "e") == b""
    assert bytes_of(checkpoint, "p") == raw(tensors["p"].detach())
    assert checkpoint.tied == {}, "nothing is shared by what holds nothing"


@pytest.mark.parametrize("legacy", [False, True])
def test_ranges(tmp_path: Path, legacy: bool) -> None:
    tensors = {"a": numbers(7, 11), "b": numbers(13).bfloat16()}
    checkpoint = opened(saved(tmp_path / "x.pt", tensors, legacy))
    buffer = np.empty(400, np.uint8)
    assert checkpoint.read("a", 5, 30, buffer).tobytes() == raw(tensors["a"])[20:120]
    assert checkpoint.read("b", 3, 4, buffer).dtype == np.uint16
    assert len(checkpoint.read("a", 9, 9, buffer)) == 0
    for step in (1, 3, 10):
        assert all(bytes_of(checkpoint, name, step) == raw(tensor) for name, tensor in tensors.items())


def shared_views() -> Tensors:
    whole = numbers(6, 8)
    return {
        "whole": whole,
        "transposed": whole.T,
        "columns": whole[:, 1:7:2],
        "rows": whole[2:4],
        "permuted": numbers(3, 4, 5).permute(2, 0, 1),
        "expanded": numbers(1, 3).expand(4, 3),
        "half": numbers(4, 6).half().T,
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("step", [1, 7, 10**9])
def test_tensors_that_do_not_lie_in_one_piece(tmp_path: Path, legacy: bool, step: int) -> None:
    tensors = shared_views()
    checkpoint = opened(saved(tmp_path / "x.pt", tensors, legacy))
    assert all(bytes_of(checkpoint, name, step) == raw(tensor) for name, tensor in tensors.items())
    assert checkpoint.tied == {}, "overlapping is not being the same tensor"


def test_a_range_in_pieces_that_is_longer_than_a_block(tmp_path: Path) -> None:
    tensor = torch.arange(300 * 500).reshape(300, 500).T
    assert bytes_of(opened(saved(tmp_path / "x.pt", {"t": tensor})), "t", 10**5) == raw(tensor)


def test_a_negated_view_is_read_as_its_numbers(tmp_path: Path) -> None:
    tensor = torch.complex(numbers(3), numbers(3, seed=1)).conj().imag
    assert tensor.is_neg()
    assert bytes_of(opened(saved(tmp_path / "x.pt", {"t": tensor})), "t") == raw(tensor.resolve_neg())


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_tensors_are_reported(tmp_path: Path, legacy: bool) -> None:
    embedding = numbers(5, 4)
    tensors = {"embed": embedding, "other": numbers(5, 4), "head": embedding, "view": embedding.view(4, 5)}
    checkpoint = opened(saved(tmp_path / "x.bin", tensors, legacy))
    assert checkpoint.tied == {"head": "embed"}
    assert bytes_of(checkpoint, "head") == raw(embedding)


def test_the_mapping_is_let_go_of(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": numbers(100), "b": numbers(50).half()})
    checkpoint = opened(path)
    if sys.platform == "linux":
        assert str(path) not in Path("/proc/self/maps").read_text()
    assert not checkpoint.is_resident


def test_an_input_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": numbers(5000), "b": numbers(5000)})
    checkpoint = opened(path)
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(MergeError, match="ends before tensor 'b' does; it was cut short"):
        bytes_of(checkpoint, "b")


def test_numbers_in_the_other_byte_order_are_turned(tmp_path: Path) -> None:
    tensor = numbers(6)
    with zipfile.ZipFile(saved(tmp_path / "x.pt", {"a": tensor})) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    entries["x/byteorder"] = b"big" if sys.byteorder == "little" else b"little"
    entries["x/data/0"] = tensor.numpy().byteswap().tobytes()
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("x/", "y/"), content)
    assert bytes_of(opened(tmp_path / "y.pt"), "a") == raw(tensor)


def test_an_entry_that_nothing_refers_to_does_not_move_the_others(tmp_path: Path) -> None:
    tensors = {"a": numbers(16), "b": numbers(16, seed=1)}
    path = saved(tmp_path / "x.pt", tensors)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/9", b"\0" * 64)
    checkpoint = opened(path)
    assert all(bytes_of(checkpoint, name) == raw(tensor) for name, tensor in tensors.items())


# --- wrapped state dicts ----------------------------------------------------------------------------------------------

STATE = {"w": numbers(2, 3), "b": numbers(3)}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "ema", "netG"])
def test_a_wrapped_state_dict_is_found_and_what_stands_beside_it_is_left(tmp_path: Path, key: str) -> None:
    wrapped = {
        "epoch": 3,
        "args": {"lr": 0.1, "name": "x"},
        "best": torch.tensor(0.9),
        "rng_state": torch.get_rng_state(),
        "optimizer": {"state": {0: {"exp_avg": numbers(2, 3)}}, "param_groups": [{"lr": 1}]},
        "scaler": {"scale": numbers(1)},
        key: OrderedDict(STATE),
    }
    assert list(opened(saved(tmp_path / "x.ckpt", wrapped)).tensors) == ["w", "b"]


def test_one_wrapped_twice(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"checkpoint": {"model": STATE, "step": 1}, "version": "2"})
    assert bytes_of(opened(path), "w") == raw(STATE["w"])


def test_the_outermost_wins(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"model": STATE, "callbacks": {"ema": STATE}, "more": {"ema": STATE}})
    assert list(opened(path).tensors) == ["w", "b"]


def test_figures_alone_are_a_state_dict_too(tmp_path: Path) -> None:
    assert list(opened(saved(tmp_path / "x.pt", {"scale": torch.tensor(2.0)})).tensors) == ["scale"]


def test_several_candidates_are_named(tmp_path: Path) -> None:
    text = complaint(saved(tmp_path / "x.pt", {"model": STATE, "ema": {"w": numbers(1)}, "epoch": 1}))
    assert "holds several dicts of tensors: ['model'], ['ema']" in text
    assert "save_file(torch.load('x.pt', weights_only=True)['model'], 'one.safetensors')" in text


def test_other_entries_inside_are_named(tmp_path: Path) -> None:
    text = complaint(saved(tmp_path / "x.pt", {"model": {**STATE, "epoch": 3, "note": "x"}}))
    assert "the dict of tensors at ['model'] also holds 2 other entries: 'epoch' (int), 'note' (str)" in text
    text = complaint(saved(tmp_path / "x.pt", {**STATE, "ema": STATE}))
    assert "the dict of tensors also holds 1 other entries: 'ema' (dict)" in text
    assert "3 (Tensor)" in complaint(saved(tmp_path / "x.pt", {**STATE, 3: numbers(1)}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([numbers(1)], "holds no dict of tensors but a list"),
        (numbers(1), "holds no dict of tensors but a Tensor"),
        ({}, "but a dict with"),
        ({"state": {0: {"exp_avg": numbers(1)}}, "param_groups": []}, "but a dict with 'state', 'param_groups'"),
    ],
)
def test_no_state_dict(tmp_path: Path, content: Any, says: str) -> None:
    assert says in complaint(saved(tmp_path / "x.pt", content))


def test_a_pickle_that_contains_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"epoch": 1}
    loop["self"] = loop
    assert "holds no dict of tensors" in complaint(saved(tmp_path / "x.pt", loop))
    loop["model"] = STATE
    assert list(opened(saved(tmp_path / "x.pt", loop)).tensors) == ["w", "b"]


def test_what_is_not_an_array_of_numbers(tmp_path: Path) -> None:
    sparse = {"s": torch.eye(3).to_sparse()}
    assert "tensor 's' is stored as torch.sparse_coo" in complaint(saved(tmp_path / "x.pt", sparse))
    meta = {"m": torch.empty(3, device="meta")}
    assert "tensor 'm' is on the device meta" in complaint(saved(tmp_path / "x.pt", meta))
    unknown = {"u": torch.ones(3, dtype=torch.complex128)}
    assert "'u' has dtype complex128, which is not supported" in complaint(saved(tmp_path / "x.pt", unknown))


# --- strangers --------------------------------------------------------------------------------------------------------


class Attack:
    """Creates a file when it is unpickled by a reader that is not careful."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._trace,)


class Evaluated(Attack):
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return eval, (f"__import__('pathlib').Path({str(self._trace)!r}).touch()",)


def plainly(protocol: int) -> Callable[[Any, Path], None]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize("attack", [Attack, Evaluated])
@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        lambda c, p: torch.save(c, p, _use_new_zipfile_serialization=False),
        plainly(0),
        plainly(2),
        plainly(5),
    ],
    ids=["zip", "legacy", "protocol 0", "protocol 2", "protocol 5"],
)
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_code_is_not_run(tmp_path: Path, suffix: str, save: Any, attack: type[Attack]) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"x{suffix}"
    save({"w": [1.0], "x": attack(trace)}, path)
    text = complaint(path)
    assert not trace.exists(), "nothing was run"
    assert "loading it may run code, so it was not loaded: besides tensors it asks for " in text
    assert ("eval" if attack is Evaluated else "Path") in text or "pathlib" in text or "getattr" in text
    assert "load it where you trust it (torch.load), and save its tensors with safetensors.torch.save_file" in text
    pickle.loads(pickle.dumps(attack(trace)))
    assert trace.exists(), "the attack would have worked on a careless reader"


def test_an_environment_variable_does_not_make_it_careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"x": Evaluated(tmp_path / "trace")}, tmp_path / "x.pt")
    assert "it asks for eval" in complaint(tmp_path / "x.pt")
    assert not (tmp_path / "trace").exists()


def test_a_pickled_module_and_a_numpy_figure_are_refused_by_name(tmp_path: Path) -> None:
    assert "it asks for torch.nn.modules.linear.Linear" in complaint(saved(tmp_path / "x.pt", torch.nn.Linear(2, 2)))
    assert "it asks for numpy" in complaint(saved(tmp_path / "x.pt", {"model": STATE, "loss": np.float64(1)}))


@pytest.mark.parametrize(
    "content", [b"\x00" * 600, b"hello, world", b"\x80", b"\x80\x02]q\x00.", bytes(range(200, 256))]
)
def test_what_is_no_pickle_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    text = complaint(tmp_path / "x.bin")
    assert "not a torch checkpoint, or damaged" in text or "may run code" in text


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_never_ends_in_anything_but_tensors_or_a_complaint(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = saved(tmp_path_factory.mktemp("flip") / "x.pt", {"m": {"a": numbers(5, 7), "b": numbers(9).half()}})
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :])
    with contextlib.suppress(InputError):
        checkpoint = opened(path)
        for name in checkpoint.tensors:
            bytes_of(checkpoint, name)
        checkpoint.close()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, legacy: bool, keep: float) -> None:
    path = saved(tmp_path / "x.bin", {"a": numbers(1000), "b": numbers(1000)}, legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    text = complaint(path)
    assert "damaged" in text
    assert "download it again" in text


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "x.pt", STATE)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "the archive is compressed (x/data.pkl" in complaint(tmp_path / "x.pt")


def test_a_storage_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": numbers(3)})
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    entries["x/data.pkl"] = entries["x/data.pkl"].replace(b"K\x03", b"J\x00\x00\x00\x10")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "damaged" in complaint(path)


def test_an_old_torch_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.pt", STATE)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    text = complaint(path)
    assert "a crafted pickle can break into torch 2.9.1+cpu, even its weights-only reader" in text
    assert 'pip install "torch>=2.10"' in text


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.pt", STATE)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'reading torch pickles needs torch\n  -> pip install "weft[torch]"' in complaint(path)


# --- shards -----------------------------------------------------------------------------------------------------------


def sharded(folder: Path, weight_map: dict[str, str] | None = None) -> Path:
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    saved(folder / first, {"w": STATE["w"]})
    saved(folder / second, {"b": STATE["b"]})
    index = {"metadata": {}, "weight_map": weight_map or {"w": first, "b": second}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    for source in (folder, folder / "pytorch_model.bin.index.json"):
        checkpoint = opened(source)
        assert {n: bytes_of(checkpoint, n) for n in checkpoint.tensors} == {n: raw(t) for n, t in STATE.items()}
        assert checkpoint.file_of("b").endswith("pytorch_model-00002-of-00002.bin")
        assert checkpoint.stem == "model"


def test_a_missing_shard(tmp_path: Path) -> None:
    (sharded(tmp_path) / "pytorch_model-00002-of-00002.bin").unlink()
    assert "1 of 2 shards are missing: pytorch_model-00002-of-00002.bin" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "..", "a/b.bin", ""])
def test_an_index_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    assert "is not a plain file name" in complaint(sharded(tmp_path, {"w": name}))


def test_an_index_cannot_name_another_kind_of_file(tmp_path: Path) -> None:
    assert "shard 'x.safetensors' is not a .bin file" in complaint(sharded(tmp_path, {"w": "x.safetensors"}))


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    text = complaint(sharded(tmp_path, {"w": second, "c": first}))
    assert f"says that 'w' is in {second}, which does not hold it" in text
    assert "says that 'c' is in" in text
    assert "1 tensors are in the shards but not in the index: b" in text


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    saved(sharded(tmp_path) / "pytorch_model-00002-of-00002.bin", STATE)
    assert "tensor 'w' is also in" in complaint(tmp_path)


def test_a_shard_that_would_run_code(tmp_path: Path) -> None:
    saved(sharded(tmp_path) / "pytorch_model-00002-of-00002.bin", {"b": Evaluated(tmp_path / "trace")})
    assert "pytorch_model-00002-of-00002.bin: loading it may run code" in complaint(tmp_path)
    assert not (tmp_path / "trace").exists()


# --- merges -----------------------------------------------------------------------------------------------------------


def models() -> list[Tensors]:
    return [
        {"w": numbers(40, 30, seed=s).bfloat16(), "t": numbers(20, 10, seed=s + 9).T, "n": torch.arange(5)}
        for s in range(3)
    ]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_merges_of_pickles_and_of_safetensors_are_equal(tmp_path: Path, method: str, legacy: bool) -> None:
    plain, pickled = [], []
    for k, tensors in enumerate(models()):
        pickled.append(saved(tmp_path / f"{k}.bin", {"state_dict": tensors, "epoch": k}, legacy))
        plain.append(tmp_path / f"{k}.safetensors")
        save_file({n: t.contiguous() for n, t in tensors.items()}, plain[-1])
    bases = (plain.pop(0), pickled.pop(0)) if method == "ties" else (None, None)
    expected = weft.merge(plain, base=bases[0], method=method)
    found = weft.merge(pickled, base=bases[1], method=method)
    assert found.keys() == expected.keys()
    assert all(isinstance(t, torch.Tensor) and raw(t) == raw(expected[n]) for n, t in found.items())
    mixed = weft.merge([plain[0], *pickled[1:]], base=bases[1], method=method)
    assert all(raw(t) == raw(expected[n]) for n, t in mixed.items())


def test_a_merge_on_disk_in_little_memory(tmp_path: Path) -> None:
    for k, tensors in enumerate(models()):
        saved(tmp_path / f"m{k}" / "pytorch_model.bin", tensors)
        (tmp_path / f"m{k}" / "config.json").write_text("{}")
    paths = [str(tmp_path / f"m{k}") for k in range(3)]
    report = weft.merge_to({"method": "linear", "models": paths}, tmp_path / "out", memory="1MiB")
    assert report.files == ("model.safetensors",)
    expected = weft.merge(models(), method="linear")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: raw(t) for n, t in found.items()} == {n: raw(t) for n, t in expected.items()}
    assert not list((tmp_path / "out").glob("*.bin"))
