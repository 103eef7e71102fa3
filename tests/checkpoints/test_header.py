"""Headers: what is written byte for byte, and every lie a file can tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.header import header_bytes, read_header
from weft.errors import InputError
from weft.kernels.dtypes import BFLOAT16, FLOAT32


def written(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def complaint(path: Path) -> str:
    with path.open("rb") as file, pytest.raises(InputError) as caught:
        read_header(file, path, path.stat().st_size)
    text = str(caught.value)
    assert str(path) in text
    assert "->" in text, "there is a remedy"
    return text


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_bytes_are_as_specified() -> None:
    specs = [TensorSpec("a", FLOAT32, (2, 3)), TensorSpec("b", BFLOAT16, ())]
    text = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}'
    )
    padded = text + b" " * (-len(text) % 8)
    assert header_bytes(specs, {"format": "pt"}) == len(padded).to_bytes(8, "little") + padded


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    tensors = {"w": np.zeros((2, 3), np.float16), "n": np.arange(3), "é": np.zeros((), np.float32)}
    save_file(tensors, tmp_path / "x.safetensors", {"key": "value"})
    with (tmp_path / "x.safetensors").open("rb") as file:
        header = read_header(file, tmp_path, (tmp_path / "x.safetensors").stat().st_size)
    assert {n: (str(s)) for n, s in header.tensors.items()} == {
        "w": "float16 [2, 3]",
        "n": "int64 [3]",
        "é": "float32 []",
    }
    assert header.metadata == {"key": "value"}
    assert set(load_file(tmp_path / "x.safetensors")) == set(header.tensors)


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        (b"not json", b"", "not valid JSON"),
        (b"\xff\xfe{}", b"", "not valid JSON"),
        (b"[" * 3000, b"", "not valid JSON"),
        ([1], b"", "not a JSON object"),
        ({"w": 1}, b"", "tensor 'w': the header entry lacks"),
        ({"w": {"dtype": "F32", "shape": [1]}}, b"", "lacks dtype, shape or data_offsets"),
        ({"w": entry([1], [0, 4], "F99")}, b"1234", "unknown dtype 'F99'"),
        ({"w": entry([-1], [0, 4])}, b"1234", "is not a list of sizes"),
        ({"w": entry([True], [0, 4])}, b"1234", "is not a list of sizes"),
        ({"w": entry([2**63], [0, 4])}, b"1234", "is not a list of sizes"),
        ({"w": entry([2**62, 2**62], [0, 4])}, b"1234", "needs"),
        ({"w": entry([1], [0, 4, 8])}, b"1234", "are not two positions"),
        ({"w": entry([2], [0, 4])}, b"1234", "float32 [2] needs 8 bytes, data_offsets span [0, 4]"),
        ({"w": entry([1], [4, 0])}, b"1234", "needs 4 bytes"),
        ({"w": entry([1], [0, 4])}, b"12", "the tensors need 4 bytes, the file holds 2"),
        ({"w": entry([1], [0, 4])}, b"123456", "the tensors need 4 bytes, the file holds 6"),
        ({"w": entry([1], [4, 8])}, b"12345678", "leaves a gap after"),
        ({"v": entry([2], [0, 8]), "w": entry([1], [4, 8])}, b"12345678", "tensor 'w' at byte 4 overlaps 'v'"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ is not a map of text to text"),
        (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":1}', b"1234", "'w' occurs twice"),
    ],
)
def test_lies_are_named(tmp_path: Path, header: object, data: bytes, says: str) -> None:
    assert says in complaint(written(tmp_path, header, data))


@pytest.mark.parametrize("length", [2**63, 10**9, 100])
def test_absurd_lengths_are_refused_before_anything_is_allocated(tmp_path: Path, length: int) -> None:
    assert "not a safetensors file, or cut off" in complaint(written(tmp_path, {}, length=length))


@pytest.mark.parametrize("size", [0, 3, 8, 20, 60])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    path = written(tmp_path, {"w": entry([4], [0, 16])}, b"\0" * 16)
    path.write_bytes(path.read_bytes()[:size])
    complaint(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_never_ends_in_anything_but_a_header_or_a_complaint(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = header_bytes([TensorSpec("w", FLOAT32, (2,)), TensorSpec("v", BFLOAT16, (1,))], {"k": "v"}) + b"\0" * 10
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    path.write_bytes(bad)
    with path.open("rb") as file:
        try:
            header = read_header(file, path, len(bad))
        except InputError:
            return
    assert sum(spec.nbytes for spec in header.tensors.values()) == 10
