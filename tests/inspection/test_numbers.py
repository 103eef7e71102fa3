"""Numbers that no model should hold, in every format; and those that only look odd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.inspection.models import complains, flip, merged, rewrite
from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.header import header_bytes
from weft.inspection.numbers import TILE
from weft.inspection.scanning import CHUNK, Numbers, scan
from weft.inspection.verify import verify
from weft.kernels.dtypes import BY_NAME

FORMATS = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def matrix(shape: tuple[int, ...] = (64, 48), dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(FORMATS[dtype])


def findings(folder: Path, tensors: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Levels and texts, without the file's name."""
    save_file(tensors, folder / "x.safetensors")
    return [
        (f.level, f.what.removeprefix(f"{folder / 'x.safetensors'}: "))
        for f in verify(folder / "x.safetensors").findings
    ]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "+inf"), (-np.inf, "-inf")])
def test_one_number_that_is_not_finite(tmp_path: Path, dtype: str, value: float, word: str) -> None:
    tensor = matrix(dtype=dtype)
    tensor[5, 7] = value
    expected = f"tensor 'w' [64, 48]: 1 {word} among 3,072 numbers, the first at [5, 7]"
    assert findings(tmp_path, {"v": matrix(dtype=dtype), "w": tensor}) == [("error", expected)]


def test_all_kinds_are_counted(tmp_path: Path) -> None:
    tensor = matrix()
    tensor[1, :3], tensor[2, :2], tensor[3, 0] = np.nan, np.inf, -np.inf
    ((_, text),) = findings(tmp_path, {"w": tensor})
    assert text == "tensor 'w' [64, 48]: 3 NaN and 2 +inf and 1 -inf among 3,072 numbers, the first at [1, 0]"


def test_not_finite_in_a_later_tile(tmp_path: Path) -> None:
    tensor = matrix((TILE + CHUNK + 10,), "float16")
    tensor[[TILE + 3, TILE + CHUNK + 9]] = np.nan
    ((_, text),) = findings(tmp_path, {"w": tensor})
    assert text.endswith(f"2 NaN among {TILE + CHUNK + 10:,} numbers, the first at [{TILE + 3}]")


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_float8(tmp_path: Path, dtype: type) -> None:
    tensor = matrix().astype(dtype)
    assert findings(tmp_path, {"w": tensor}) == []
    tensor[0, 3] = np.nan
    ((_, text),) = findings(tmp_path, {"w": tensor})
    assert "1 NaN among 3,072 numbers, the first at [0, 3]" in text


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_every_code_of_float8_is_read_as_others_read_it(dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(getattr(ml_dtypes, dtype)).astype(np.float64)
    for code, value in enumerate(expected):
        found = scan(codes[code : code + 1], BY_NAME[dtype], 0, np.empty(CHUNK))
        assert np.array_equal(found.value, value if np.isfinite(value) else np.nan, equal_nan=True)
        assert (found.nan, found.positive, found.negative) == (np.isnan(value), value == np.inf, value == -np.inf)


def test_complex_numbers(tmp_path: Path) -> None:
    tensor = matrix().astype(np.complex64)
    tensor[1, 1] = complex(0, np.inf)
    save_file({"w": tensor}, tmp_path / "x.safetensors")
    complains(tmp_path / "x.safetensors", "tensor 'w' [64, 48]: 1 +inf among")


def test_a_byte_that_is_no_truth(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"mask": np.tril(np.ones((4, 4), bool))}, path)
    assert verify(path).spotless
    flip(path, path.stat().st_size - 3, 4)
    complains(path, "tensor 'mask' [4, 4]: 1 of 16 numbers are neither 0 nor 1, the first at [3, 1]")


@pytest.mark.parametrize("dtype", FORMATS)
def test_constants(tmp_path: Path, dtype: str) -> None:
    full = {name: np.full((6, 8), value, FORMATS[dtype]) for name, value in (("zero", 0), ("seven", 7), ("one", 1))}
    full |= {"minus": np.full((6, 8), -0.0, FORMATS[dtype]), "ok": matrix(dtype=dtype)}
    assert sorted(findings(tmp_path, full)) == [
        ("error", "tensor 'minus' [6, 8]: all 48 numbers are zero: this weight is dead"),
        ("error", "tensor 'zero' [6, 8]: all 48 numbers are zero: this weight is dead"),
        ("warning", "tensor 'one' [6, 8]: all numbers are 1"),
        ("warning", "tensor 'seven' [6, 8]: all numbers are 7"),
    ]


def test_constants_that_are_harmless(tmp_path: Path) -> None:
    harmless = {
        "norm.weight": np.ones(8), "norm.bias": np.zeros(8), "attn.bias": np.zeros((4, 8)),
        "cls_token": np.zeros((1, 1, 8)),
        "scale": np.full((), 2.5), "one": np.full((1, 1), 3.0), "empty": np.zeros((0, 3)),
        "position_ids": np.zeros((1, 8), np.int64), "mask": np.ones((3, 3), bool),
    }  # fmt: skip
    assert findings(tmp_path, {name: np.asarray(t) for name, t in harmless.items()}) == []


def test_vectors_that_are_constant_are_suspicious(tmp_path: Path) -> None:
    odd = {"norm.weight": np.zeros(8), "scale": np.full(8, 0.5)}
    assert sorted(findings(tmp_path, odd)) == [
        ("warning", "tensor 'norm.weight' [8]: all numbers are 0"),
        ("warning", "tensor 'scale' [8]: all numbers are 0.5"),
    ]


def test_constants_are_told_together(tmp_path: Path) -> None:
    fresh = {f"layers.{k}.norm.weight": np.zeros(8) for k in range(7)}
    ((level, text),) = findings(tmp_path, fresh)
    assert level == "warning"
    assert text.startswith("7 tensors hold nothing but 0: layers.0.norm.weight, ")
    assert text.endswith(" and 2 more")


def test_positions_that_were_never_trained_are_not_dead(tmp_path: Path) -> None:
    ((level, text),) = findings(tmp_path, {"vit.position_embeddings": np.zeros((1, 6, 8))})
    assert (level, text) == ("warning", "tensor 'vit.position_embeddings' [1, 6, 8]: all numbers are 0")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("finite", [0.0, 1.0])
def test_a_mask_may_hold_infinities(tmp_path: Path, dtype: str, finite: float) -> None:
    mask = np.triu(np.full((9, 9), -np.inf), 1)
    mask[mask == 0] = finite
    assert findings(tmp_path, {"mask": mask.astype(FORMATS[dtype])}) == []


@pytest.mark.parametrize(("name", "shape"), [("norm.weight", (9,)), ("q.bias", (1, 9)), ("q.weight", (3, 3))])
def test_a_parameter_is_no_mask(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, np.float32)
    values.reshape(-1)[4] = -np.inf
    ((level, text),) = findings(tmp_path, {name: values})
    assert level == "error"
    assert text.startswith(f"tensor {name!r} [")
    assert "1 -inf among 9 numbers" in text


def test_what_is_no_mask(tmp_path: Path) -> None:
    plus, several = np.triu(np.full((9, 9), np.inf), 1), matrix((9, 9))
    plus[np.isnan(plus)] = 0
    several[0, 0] = -np.inf
    assert [level for level, _ in findings(tmp_path, {"plus": plus, "several": several})] == ["error", "error"]


def test_the_largest_number_may_stand_for_infinity(tmp_path: Path) -> None:
    tensors = {
        dtype: np.triu(np.full((9, 9), ml_dtypes.finfo(FORMATS[dtype]).min), 1).astype(FORMATS[dtype])
        for dtype in ("float64", "float32", "bfloat16")
    }
    assert not [text for _, text in findings(tmp_path, tensors) if "largest of" in text]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_flipped_exponent(tmp_path: Path, dtype: str) -> None:
    tensor = matrix(dtype=dtype)
    bits = tensor.view(np.uint32 if dtype == "float32" else np.uint16)
    bits[9, 9] ^= 1 << (8 * tensor.itemsize - 2)
    ((level, text),) = findings(tmp_path, {"w": tensor})
    assert level == "error"
    assert text.startswith("tensor 'w' [64, 48]: the largest of 3,072 numbers is ")


@pytest.mark.parametrize("dtype", FORMATS)
def test_one_number_that_outweighs_all_others(tmp_path: Path, dtype: str) -> None:
    tensor = matrix(dtype=dtype)
    tensor[3, 3] = 300
    ((level, text),) = findings(tmp_path, {"w": tensor})
    assert (level, text) == (
        "warning",
        "tensor 'w' [64, 48]: one number, 300, outweighs the 3,071 others together",
    )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_squares_that_exceed_float32_are_no_news(tmp_path: Path) -> None:
    vector = np.linspace(1e18, 2e18, 5000).astype(np.float32)  # a square is finite, their sum is not
    assert findings(tmp_path, {"scales": vector}) == []


def test_a_part_that_was_never_written(tmp_path: Path) -> None:
    tensor = matrix((3 * CHUNK // 256, 256), "bfloat16")
    tensor.reshape(-1)[CHUNK : 2 * CHUNK] = 0
    expected = f"[{CHUNK // 256}, 0] to [{2 * CHUNK // 256 - 1}, 255]"
    ((level, text),) = findings(tmp_path, {"w": tensor})
    assert level == "error"
    assert f"{CHUNK:,} of {3 * CHUNK:,} numbers are zero in a row, the longest run from {expected}" in text
    ((level, _),) = findings(tmp_path, {"lm_head.weight": tensor})
    assert level == "warning", "these may be rows of padding"


PLANTED: dict[str, tuple[Callable[[np.ndarray], object], str, str]] = {
    "NaN": (lambda t: t[2].fill(np.nan), "16 NaN among 384 numbers, the first at [2, 0]", "error"),
    "infinity": (lambda t: t[1].fill(np.inf), "16 +inf among 384 numbers", "error"),
    "zeros": (lambda t: t.fill(0), "all 384 numbers are zero: this weight is dead", "error"),
    "a constant": (lambda t: t.fill(0.25), "all numbers are 0.25", "warning"),
    "enormous": (lambda t: t[0, :1].fill(1e30), "the largest of 384 numbers is 1e+30", "error"),
}


@pytest.mark.parametrize("shard_size", ["1GB", "12KB"])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_in_an_output(tmp_path: Path, name: str, shard_size: str) -> None:
    plant, says, level = PLANTED[name]
    out = merged(tmp_path, shard_size=shard_size)
    tensor = "model.layers.1.mlp.up_proj.weight"
    for path in out.glob("*.safetensors"):
        rewrite(path, lambda tensors: [plant(t) for name, t in tensors.items() if name == tensor])
    finding = complains(out, says, "numbers", level)
    assert f"tensor '{tensor}' [24, 16]: " in finding.what
    assert finding.what.startswith(str(out)), "the file is named"
    assert not verify(out, numbers=False).warnings


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.inspection import numbers

    path = tmp_path / "x.safetensors"
    save_file({"v": matrix(), "w": matrix()}, path)
    tiles = numbers._tiles

    def shrinking(parts: object) -> object:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 100)
        return tiles(parts)

    monkeypatch.setattr(numbers, "_tiles", shrinking)
    complains(path, "ends before tensor 'w' does; it was cut short while we read it", "numbers")


def test_parts_add_up_whatever_the_cuts() -> None:
    values = np.array([3, 3, np.nan, 3, -np.inf, 3], np.float32)
    whole = scan(values, BY_NAME["float32"], 0, np.empty(CHUNK))
    for cut in range(7):
        parts = Numbers()
        for part, start in ((values[:cut], 0), (values[cut:], cut)):
            parts.add(scan(part, BY_NAME["float32"], start, np.empty(CHUNK)))
        assert parts == whole
    assert (whole.nan, whole.negative, whole.at, whole.value, whole.constant) == (1, 1, 2, 3.0, True)


PROGRAM = """
import re, sys
from weft.inspection.verify import verify
verdict = verify(sys.argv[1])
assert verdict.spotless and verdict.bytes_read == 1_200_000_000
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    spec = TensorSpec("w", BY_NAME["bfloat16"], (600_000, 1000))
    part = np.random.default_rng(0).integers(0x3C00, 0x3C80, 6_000_000, np.uint16).tobytes()
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(header_bytes([spec], {}))
        for _ in range(100):
            file.write(part)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 350e6, "interpreter, libraries, machine code, and a few tiles"
