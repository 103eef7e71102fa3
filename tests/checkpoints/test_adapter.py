"""Adapted weights against an independent float64 product, in whatever ranges they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.checkpoints.adapters import adapted, factors, product, whole, written
from weft.checkpoints.adapter import Adapted, open_adapted
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.memory import InMemory
from weft.checkpoints.opening import open_checkpoint
from weft.errors import MergeError

RNG = np.random.default_rng(11)
CLOSE = {"rtol": 1e-6, "atol": 1e-7}


def weight(*shape: int, dtype: str | type = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def low_rank(tensors: dict[str, np.ndarray], kind: str = "lora_") -> np.ndarray:
    a = next(t for name, t in tensors.items() if f"{kind}A" in name)
    b = next(t for name, t in tensors.items() if f"{kind}B" in name)
    return product(a, b)


@pytest.mark.parametrize("stored", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("given_as", ["float32", "float16", ml_dtypes.bfloat16])
def test_a_linear_layer(tmp_path: Path, stored: type, given_as: type) -> None:
    base, tensors = weight(7, 5, dtype=stored), factors(RNG, "fc", (5,), 7, dtype=given_as)
    model = adapted(tmp_path, {"fc.weight": base}, tensors)
    assert str(model.tensors["fc.weight"]) == "float32 [7, 5]"
    np.testing.assert_allclose(whole(model, "fc.weight"), base.astype(float) + 2 * low_rank(tensors), **CLOSE)


@pytest.mark.parametrize(("stored", "given_as"), [("float64", "float32"), ("float32", "float64")])
def test_float64_where_anything_is(tmp_path: Path, stored: str, given_as: str) -> None:
    base, tensors = weight(7, 5, dtype=stored), factors(RNG, "fc", (5,), 7, dtype=given_as)
    model = adapted(tmp_path, {"fc.weight": base}, tensors)
    assert str(model.tensors["fc.weight"]) == "float64 [7, 5]"
    np.testing.assert_allclose(whole(model, "fc.weight"), base + 2 * low_rank(tensors), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("rank", [1, 7, 8, 19])
def test_any_rank_over_many_columns(tmp_path: Path, rank: int) -> None:
    base, tensors = weight(3, 2500), factors(RNG, "fc", (2500,), 3, rank)
    model = adapted(tmp_path, {"fc.weight": base}, tensors, r=rank, lora_alpha=rank)
    np.testing.assert_allclose(whole(model, "fc.weight"), base + low_rank(tensors), **CLOSE)


def test_the_scale_of_rank_stabilised_lora(tmp_path: Path) -> None:
    base, tensors = weight(4, 5), factors(RNG, "fc", (5,), 4, 16)
    model = adapted(tmp_path, {"fc.weight": base}, tensors, r=16, lora_alpha=2.5, use_rslora=True)
    np.testing.assert_allclose(whole(model, "fc.weight"), base + 2.5 / 4 * low_rank(tensors), **CLOSE)


def test_ranks_and_scales_by_module(tmp_path: Path) -> None:
    names = ["layers.0.q", "layers.1.q", "layers.1.xq", "layers.10.q"]
    ranks, scales = [2, 5, 3, 3], [6 / 2, 20 / 5, 1 / 3, 20 / 3]
    given = [factors(RNG, name, (5,), 4, rank) for name, rank in zip(names, ranks, strict=True)]
    base = {f"{name}.weight": weight(4, 5) for name in names}
    patterns = {"rank_pattern": {"^layers.0.q": 2, "1.q": 5}, "alpha_pattern": {"xq": 1, r"layers\.1\d?\.q": 20}}
    model = adapted(tmp_path, base, {n: t for tensors in given for n, t in tensors.items()}, **patterns)
    for name, tensors, scale in zip(names, given, scales, strict=True):
        expected = base[f"{name}.weight"] + scale * low_rank(tensors)
        np.testing.assert_allclose(whole(model, f"{name}.weight"), expected, **CLOSE)


def test_weights_that_are_stored_inputs_by_outputs(tmp_path: Path) -> None:
    wide, square = factors(RNG, "h.attn", (4,), 12), factors(RNG, "h.proj", (4,), 4)
    base = {"h.attn.weight": weight(4, 12), "h.proj.weight": weight(4, 4)}
    model = adapted(tmp_path, base, {**wide, **square}, fan_in_fan_out=True)
    for name, tensors in (("h.attn.weight", wide), ("h.proj.weight", square)):
        np.testing.assert_allclose(whole(model, name), base[name] + 2 * low_rank(tensors).T, **CLOSE)


def embedding(rows: int, columns: int) -> dict[str, np.ndarray]:
    name = "base_model.model.embed.lora_embedding_"
    return {f"{name}A": weight(3, rows), f"{name}B": weight(columns, 3)}


def test_an_embedding(tmp_path: Path) -> None:
    base, tensors = weight(9, 4), embedding(9, 4)
    model = adapted(tmp_path, {"embed.weight": base}, tensors)
    expected = base + 2 * low_rank(tensors, "lora_embedding_").T
    np.testing.assert_allclose(whole(model, "embed.weight"), expected, **CLOSE)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (3,), (2, 1, 2)], ids=str)
def test_a_convolution(tmp_path: Path, kernel: tuple[int, ...]) -> None:
    base, tensors = weight(6, 4, *kernel), factors(RNG, "conv", (4, *kernel), 6)
    model = adapted(tmp_path, {"conv.weight": base}, tensors)
    np.testing.assert_allclose(whole(model, "conv.weight"), base + 2 * low_rank(tensors), **CLOSE)


def with_length(lengths: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Every output (first dimension) scaled to its length."""
    norms = np.sqrt((moved.reshape(len(moved), -1) ** 2).sum(axis=1))
    return moved * (lengths.astype(float).reshape(-1) / norms).reshape(-1, *(1 for _ in moved.shape[1:]))


@pytest.mark.parametrize("inputs", [(5,), (4, 3, 3)], ids=["linear", "convolution"])
def test_dora(tmp_path: Path, inputs: tuple[int, ...]) -> None:
    base, tensors = weight(7, *inputs), factors(RNG, "fc", inputs, 7)
    lengths = RNG.uniform(0.5, 2, (7,) if len(inputs) == 1 else (1, 7, 1, 1)).astype("float32")
    vector = {"base_model.model.fc.lora_magnitude_vector": lengths}
    model = adapted(tmp_path, {"fc.weight": base}, {**tensors, **vector}, use_dora=True)
    expected = with_length(lengths, base + 2 * low_rank(tensors))
    np.testing.assert_allclose(whole(model, "fc.weight"), expected, rtol=1e-6, atol=1e-6)


def test_dora_where_outputs_are_columns(tmp_path: Path) -> None:
    conv1d, table = factors(RNG, "h", (4,), 12), embedding(9, 5)
    base = {"h.weight": weight(4, 12), "embed.weight": weight(9, 5)}
    lengths = {"h": RNG.uniform(0.5, 2, 12), "embed": RNG.uniform(0.5, 2, 5)}
    vectors = {f"base_model.model.{name}.lora_magnitude_vector": v for name, v in lengths.items()}
    model = adapted(tmp_path, base, {**conv1d, **table, **vectors}, use_dora=True)
    for name, change in (("h", low_rank(conv1d)), ("embed", low_rank(table, "lora_embedding_"))):
        expected = with_length(lengths[name], base[f"{name}.weight"].T + 2 * change).T
        np.testing.assert_allclose(whole(model, f"{name}.weight"), expected, rtol=1e-6, atol=1e-6)


def test_dora_of_a_row_that_is_zero_is_zero(tmp_path: Path) -> None:
    tensors = factors(RNG, "fc", (5,), 2)
    tensors["base_model.model.fc.lora_B.weight"][0] = 0
    vector = {"base_model.model.fc.lora_magnitude_vector": np.ones(2, "float32")}
    base = np.stack([np.zeros(5), np.ones(5)]).astype("float32")
    result = whole(adapted(tmp_path, {"fc.weight": base}, {**tensors, **vector}, use_dora=True), "fc.weight")
    assert not result[0].any()
    assert np.linalg.norm(result[1]) == pytest.approx(1)


def test_a_case_to_check_by_hand(tmp_path: Path) -> None:
    tensors = {"fc.lora_A.weight": np.array([[1.0, 10.0]], "float32"), "fc.lora_B.weight": np.ones((2, 1), "float32")}
    vector = {"fc.lora_magnitude_vector": np.array([10.0, 1.0], "float32")}
    base = {"fc.weight": np.array([[2.0, -17.0], [-1.0, -20.0]], "float32")}
    plain = adapted(tmp_path / "plain", base, tensors, r=1, lora_alpha=2)
    assert whole(plain, "fc.weight").tolist() == [[4, 3], [1, 0]]
    dora = adapted(tmp_path / "dora", base, {**tensors, **vector}, r=1, lora_alpha=2, use_dora=True)
    assert whole(dora, "fc.weight").tolist() == [[8, 6], [1, 0]]


def test_saved_modules_replace_the_base_and_may_be_new(tmp_path: Path) -> None:
    base = {"fc.weight": weight(4, 5, dtype="float16"), "norm.weight": weight(5, dtype="float16")}
    saved = {"base_model.model.norm.weight": weight(5), "base_model.model.score.head.weight": weight(2, 5)}
    tensors = {**factors(RNG, "fc", (5,), 4), **saved}
    model = adapted(tmp_path, base, tensors, modules_to_save=["norm", "score"])
    assert {name: str(spec) for name, spec in model.tensors.items()} == {
        "fc.weight": "float32 [4, 5]",
        "norm.weight": "float32 [5]",
        "score.head.weight": "float32 [2, 5]",
    }
    assert whole(model, "norm.weight").tobytes() == saved["base_model.model.norm.weight"].tobytes()
    assert whole(model, "score.head.weight").tobytes() == saved["base_model.model.score.head.weight"].tobytes()
    assert isinstance(model, Adapted)
    stored = [model.stored_dtype(name).name for name in model.tensors]
    assert stored == ["float16", "float16", "float32"]


def test_biases_are_replaced_and_shifted(tmp_path: Path) -> None:
    base = {f"{m}.{p}": weight(*shape) for m in "ab" for p, shape in (("weight", (4, 5)), ("bias", (4,)))}
    tensors = {**factors(RNG, "a", (5,), 4), **factors(RNG, "b", (5,), 4)}
    biases = {"base_model.model.a.base_layer.bias": weight(4), "base_model.model.b.lora_B.bias": weight(4)}
    model = adapted(tmp_path, base, {**tensors, **biases}, bias="all", lora_bias=True)
    replaced, shift = biases.values()
    np.testing.assert_array_equal(whole(model, "a.bias"), replaced)
    np.testing.assert_allclose(whole(model, "b.bias"), base["b.bias"] + 2 * shift.astype(float), **CLOSE)


def test_an_adapted_head_that_the_adapter_brings_along(tmp_path: Path) -> None:
    head, tensors = weight(9, 5), factors(RNG, "lm_head", (5,), 9)
    given = {**tensors, "base_model.model.lm_head.base_layer.weight": head}
    model = adapted(tmp_path, {"embed.weight": weight(9, 5)}, given)
    np.testing.assert_allclose(whole(model, "lm_head.weight"), head + 2 * low_rank(tensors), **CLOSE)


def test_the_rest_is_read_straight_through(tmp_path: Path) -> None:
    base = InMemory({"fc.weight": weight(4, 5), "ids": np.arange(6), "half": weight(3, dtype="float16")}, "b")
    model = adapted(tmp_path, base, factors(RNG, "fc", (5,), 4))
    for name in ("ids", "half"):
        assert model.tensors[name] == base.tensors[name]
        assert model.read(name, 1, 3, np.empty(16, np.uint8)).tobytes() == base.read(name, 1, 3, None).tobytes()


# Ranges -----------------------------------------------------------------------------------------------------------


def busy(folder: Path) -> tuple[Checkpoint, list[str]]:
    """A model with every way of adapting, in formats and sizes in which vectors and tails occur."""
    rng = np.random.default_rng(5)
    shapes = {"fc": (37, 53), "conv": (5, 7, 3, 3), "turned": (29, 11)}
    base = {f"{name}.weight": rng.standard_normal(s).astype(ml_dtypes.bfloat16) for name, s in shapes.items()}
    tensors = {
        **factors(rng, "fc", (53,), 37, 11),
        **factors(rng, "conv", (7, 3, 3), 5, 11),
        **factors(rng, "turned", (29,), 11, 11),
    }
    lengths = {"fc": 37, "conv": 5, "turned": 11}
    vectors = {f"{name}.lora_magnitude_vector": np.ones(n, "float32") for name, n in lengths.items()}
    return adapted(folder, base, {**tensors, **vectors}, r=11, use_dora=True), list(base)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, list[str]]:
    return busy(tmp_path_factory.mktemp("adapter"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ranges_give_the_same_bytes(model: tuple[Checkpoint, list[str]], data: st.DataObject) -> None:
    checkpoint, names = model
    name = data.draw(st.sampled_from(names))
    size = checkpoint.tensors[name].size
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})
    buffer = np.empty(size * 4, np.uint8)
    parts = [checkpoint.read(name, a, b, buffer).tobytes() for a, b in pairwise(cuts)]
    assert b"".join(parts) == whole(checkpoint, name).tobytes()


def test_threads_that_read_at_once_get_the_same_bytes(tmp_path: Path, model: tuple[Checkpoint, list[str]]) -> None:
    fresh, names = busy(tmp_path)

    def read(task: tuple[str, int]) -> bytes:
        name, start = task
        stop = min(start + 100, fresh.tensors[name].size)
        return fresh.read(name, start, stop, np.empty(400, np.uint8)).tobytes()

    tasks = {name: [(name, start) for start in range(0, fresh.tensors[name].size, 100)] for name in names}
    with ThreadPoolExecutor(8) as pool:
        results = {name: b"".join(pool.map(read, tasks[name])) for name in names}
    assert results == {name: whole(model[0], name).tobytes() for name in names}


def test_nothing_is_read_of_an_empty_tensor(tmp_path: Path) -> None:
    tensors = {"fc.lora_A.weight": np.zeros((3, 0), "float32"), "fc.lora_B.weight": np.zeros((4, 3), "float32")}
    model = adapted(tmp_path, {"fc.weight": np.zeros((4, 0), "float32")}, tensors)
    assert whole(model, "fc.weight").shape == (4, 0)


# As a checkpoint ----------------------------------------------------------------------------------------------------


def test_it_names_and_closes_both_files(tmp_path: Path) -> None:
    tensors = {**factors(RNG, "fc", (5,), 4), "norm.weight": weight(5)}
    save_file({"fc.weight": weight(4, 5), "norm.weight": weight(5), "x": weight(2)}, tmp_path / "base.safetensors")
    base = open_checkpoint(tmp_path / "base.safetensors")
    model = open_adapted(base, written(tmp_path / "lora", tensors), "the model")
    here, there = str(tmp_path / "base.safetensors"), str(tmp_path / "lora" / "adapter_model.safetensors")
    assert [model.file_of(n) for n in ("fc.weight", "norm.weight", "x")] == [f"{here} + {there}", there, here]
    assert (model.label, model.path, model.is_resident) == ("the model", base.path, False)
    model.close()
    for name in ("x", "norm.weight"):
        with pytest.raises((MergeError, KeyError, OSError)):
            model.read(name, 0, 2, np.empty(8, np.uint8))


def test_an_adapter_that_torch_saved(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base, tensors = weight(4, 5), factors(RNG, "fc", (5,), 4)
    folder = written(tmp_path / "lora", tensors)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({name: torch.from_numpy(t) for name, t in tensors.items()}, folder / "adapter_model.bin")
    model = open_adapted(InMemory({"fc.weight": base}, "base"), folder, "the model")
    np.testing.assert_allclose(whole(model, "fc.weight"), base + 2 * low_rank(tensors), **CLOSE)


# Shared tensors -----------------------------------------------------------------------------------------------------


def test_an_adapted_tensor_is_shared_no_longer(tmp_path: Path) -> None:
    table = weight(9, 4)
    base = {"embed.weight": table, "lm_head.weight": table, "decoder.embed.weight": table}
    model = adapted(tmp_path, base, embedding(9, 4))
    assert dict(model.tied) == {"decoder.embed.weight": "lm_head.weight"}
    assert whole(model, "lm_head.weight").tobytes() == table.tobytes()
    assert whole(model, "embed.weight").tobytes() != table.tobytes()


def test_tensors_that_were_trained_as_one_change_together(tmp_path: Path) -> None:
    table = weight(9, 4)
    base = {"embed.weight": table, "lm_head.weight": table}
    model = adapted(tmp_path, base, embedding(9, 4), ensure_weight_tying=True)
    assert dict(model.tied) == {"lm_head.weight": "embed.weight"}
    assert whole(model, "embed.weight").tobytes() == whole(model, "lm_head.weight").tobytes() != table.tobytes()


def test_a_second_copy_of_a_tensor_that_the_base_stores_once_is_left_out(tmp_path: Path) -> None:
    tensors = embedding(9, 4)
    a, b = tensors.values()
    head = {"lm_head.lora_A.weight": b.T, "lm_head.lora_B.weight": a.T, "lm_head.base_layer.weight": weight(9, 4)}
    model = adapted(tmp_path, {"embed.weight": weight(9, 4)}, {**tensors, **head}, ensure_weight_tying=True)
    assert list(model.tensors) == ["embed.weight"]
