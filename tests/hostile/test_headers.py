"""Safetensors headers that lie, repeat themselves, or would fill the memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.limited import MEGABYTE, opened
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

W = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    said = str(caught.value)
    assert str(path) in said
    assert "->" in said
    assert len(said) < 1500
    assert said.replace("\n", "").isprintable()
    return said


def file(folder: Path, header: str | bytes, data: bytes = b"1234", length: int | None = None) -> Path:
    header = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    path = folder / "x.safetensors"
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), name: str = "w") -> str:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def test_entries_in_any_order_and_with_any_space(tmp_path: Path) -> None:
    odd = '  {\n"w" : { "data_offsets":[0 ,\t4],"more":{"a":[1]}, "shape" :[ 1 ],"dtype":"F32"} }  '
    for header in (odd, entry(), f'{{"__metadata__":{{}},"w":{{{W}}}}}', f'{{"\\u0077":{{{W}}}}}'):
        checkpoint = open_checkpoint(file(tmp_path, header))
        assert {name: str(spec) for name, spec in checkpoint.tensors.items()} == {"w": "float32 [1]"}
        checkpoint.close()


HUGE = "9" * 30
LIES = {
    "nothing": ("", "is not valid JSON: it is not a JSON object but begins with ''"),
    "a list": ("[]", "it is not a JSON object but begins with '[]'"),
    "text": ('"w"', "it is not a JSON object"),
    "something after it": (f'{{"w":{{{W}}}}} {{}}', "something follows it at character"),
    "a comma too many": (f'{{"w":{{{W}}},}}', "'\"' is missing at character"),
    "a comma too few": (f'{{"w":{{{W}}} "v":{{{W}}}}}', "',' is missing at character"),
    "cut off": (f'{{"w":{{{W}', "at character"),
    "a key without quotes": (f"{{w:{{{W}}}}}", "'\"' is missing"),
    "a control character in a name": (f'{{"a\nb":{{{W}}}}}', "Invalid control character"),
    "no UTF-8": (b'{"\xff":{}}', "can't decode byte 0xff"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "not a JSON object"),
    "UTF-16": (entry().encode("utf-16"), "is not valid JSON"),
    "a name twice": (f'{{"w":{{{W}}},"w":{{{W}}}}}', "'w' occurs twice"),
    "a name twice, spelled otherwise": (f'{{"w":{{{W}}},"\\u0077":{{{W}}}}}', "'w' occurs twice"),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{}}', "'__metadata__' occurs twice"),
    "a part twice": (f'{{"w":{{{W},"dtype":"F16"}}}}', "'dtype' occurs twice"),
    "metadata that are a list": ('{"__metadata__":[]}', "__metadata__ is not a map of text to text"),
    "metadata with a number": ('{"__metadata__":{"a":1}}', "__metadata__ is not a map of text to text"),
    "metadata that nest": ('{"__metadata__":{"a":{}}}', "__metadata__ is not a map of text to text"),
    "metadata that are no text": ('{"__metadata__":{"a":"\\ud800"}}', "__metadata__ is not a map of text to text"),
    "a negative size": (entry(shape=[-1]), "shape [-1] is not a list of sizes"),
    "a size that is true": (entry(shape=[True]), "shape [True] is not a list of sizes"),
    "a size that is a fraction": (entry(shape=[1.0]), "shape [1.0] is not a list of sizes"),
    "a size that is text": (entry(shape=["1"]), "is not a list of sizes"),
    "a size that is nothing": (entry(shape=[None]), "is not a list of sizes"),
    "a shape that is a number": (entry(shape=1), "shape 1 is not a list of sizes"),
    "a shape of shapes": (entry(shape=[[1]]), "shape [[1]] is not a list of sizes"),
    "a size beyond 64 bits": (entry(shape=[2**63]), "is not a list of sizes"),
    "a size of thirty digits": (entry(shape=[int(HUGE)]), "is not a list of sizes"),
    "a size of four thousand digits": (entry().replace("[1]", f"[{'9' * 4000}]"), "is not a list of sizes"),
    "an infinite size": (entry().replace("[1]", "[1e999]"), "shape [inf] is not a list of sizes"),
    "a size that is no number": (entry().replace("[1]", "[NaN]"), "shape [nan] is not a list of sizes"),
    "a size with a leading zero": (entry().replace("[1]", "[01]"), "is not valid JSON"),
    "a product beyond 64 bits": (entry(shape=[2**40, 2**40]), "needs 4835703278458516698824704 bytes"),
    "a product that wraps to the truth": (entry(shape=[2**32, 2**31 + 1, 2]), "needs"),
    "an empty tensor of a product beyond 64 bits": (
        entry(shape=[0, 2**40, 2**40], offsets=[0, 0]),
        "product overflows",
    ),
    "sixty-five dimensions": (entry(shape=[1] * 65), "has 65 dimensions, more than 64"),
    "a negative offset": (entry(offsets=[-4, 0]), "data_offsets [-4, 0] are not two positions"),
    "an offset that is true": (entry(offsets=[False, 4]), "are not two positions"),
    "an offset that is a fraction": (entry(offsets=[0, 4.0]), "data_offsets [0, 4.0] are not two positions"),
    "one offset": (entry(offsets=[4]), "are not two positions"),
    "offsets beyond 64 bits": (entry(offsets=[2**64, 2**64 + 4]), "are not two positions"),
    "offsets beyond the file": (entry(offsets=[2**40, 2**40 + 4]), "leaves a gap after 'the header'"),
    "offsets that run backwards": (entry(offsets=[4, 0]), "needs 4 bytes, data_offsets span [4, 0]"),
    "an unknown format": (entry("F33"), "unknown dtype 'F33'"),
    "a format that is a number": (entry(32), "unknown dtype 32"),
    "a format that is a list": (entry(["F32"]), "unknown dtype ['F32']"),
    "a format of a thousand characters": (entry("F" * 1000), "unknown dtype 'FFFF"),
    "an entry that is a list": ('{"w":[]}', "the header entry lacks dtype, shape or data_offsets"),
    "an entry that is nothing": ('{"w":null}', "the header entry lacks"),
    "no name": (entry(name=""), "the name is empty"),
    "half of a surrogate pair": ('{"\\ud800":{' + W + "}}", "tensor '\\ud800': the name is empty or holds characters"),
    "an escape sequence": (entry(name="\x1b[2J"), "tensor '\\x1b[2J': the name is empty or holds characters"),
    "text that runs backwards": (entry(name="a\u202eb"), "tensor 'a\\u202eb': the name is empty or holds"),
    "a line break": (entry(name="a\nb"), "tensor 'a\\nb': the name is empty or holds characters"),
    "a NUL": (entry(name="a\0b"), "tensor 'a\\x00b': the name is empty or holds characters"),
    "a name of a thousand and one characters": (
        entry(name="n" * 1001),
        "the name has 1,001 characters, more than 1,000",
    ),
    "an entry that goes on": (entry().replace("[1]", f"[{'1,' * 3000}1]"), "has 3001 dimensions, more than 64"),
    "an entry of spaces": (entry().replace("[1]", f"[1{' ' * 9000}]"), "an entry is longer than 4096 characters"),
    "brackets": ("{" + '"a":' + "[" * 4000, "nested too deeply"),
    "braces": ('{"a":' * 4000, "an entry is longer than 4096 characters"),
    "a hole": (
        json.dumps(
            {
                "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
            }
        ),
        "leaves a gap after 'a'",
    ),
    "bytes at the end": (entry("U8", [2], [0, 2]), "the tensors need 2 bytes, the file holds 4"),
    "two in one place": (
        json.dumps({k: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for k in "ab"}),
        "tensor 'b' at byte 0 overlaps 'a', which ends at 4",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(tmp_path: Path, lie: str) -> None:
    header, says = LIES[lie]
    assert says in complaint(file(tmp_path, header))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**32, 100_000_001, 99, 5])
def test_absurd_lengths(tmp_path: Path, length: int) -> None:
    said = complaint(file(tmp_path, entry(), length=length))
    assert f"header length {length}" in said or "is not valid JSON" in said


def test_a_file_that_is_all_hole(tmp_path: Path) -> None:
    path = file(tmp_path, "{}", b"", 90_000_000)
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "is not valid JSON" in complaint(path)


def test_empty_tensors_and_names_like_paths_are_names_only(tmp_path: Path) -> None:
    names = (
        "../../etc/passwd",
        "/root",
        "..",
        ".",
        "a\\b",
        "C:x",
        "con",
        "-rf",
        "$(true)",
        "[red]w[/]",
        "é",
        "w" * 1000,
    )
    entries = {n: {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]} for n in names}
    checkpoint = open_checkpoint(file(tmp_path, json.dumps(entries), b""))
    assert set(checkpoint.tensors) == set(names)
    checkpoint.close()
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


LONG = 12_000_000
BOMBS: dict[str, tuple[Callable[[], str], str, int]] = {
    "empty lists": (lambda: '{"a":[' + "[]," * (LONG // 3) + "[]]}", "an entry is longer than 4096", 4),
    "empty maps as entries": (
        lambda: "{" + ",".join(f'"{k}":{{}}' for k in range(LONG // 12)) + "}",
        "lacks dtype",
        12,
    ),
    "brackets": (lambda: '{"a":' + "[" * LONG, "nested too deeply", 4),
    "a name": (lambda: '{"' + "n" * LONG + '":{}}', f"the name has {LONG:,} characters", 5),
    "metadata": (lambda: '{"__metadata__":{"a":"' + "m" * LONG + '"}}', "the tensors need 0 bytes", 6),
    "many metadata": (
        lambda: '{"__metadata__":{' + ",".join(f'"{k}":""' for k in range(LONG // 12)) + "}}",
        "the tensors need 0",
        20,
    ),
    "a number": (lambda: entry().replace("[1]", f"[{'9' * LONG}]"), "is not valid JSON", 4),
    "a format": (lambda: entry("F" * LONG), "unknown dtype 'FFF", 5),
    "spaces": (lambda: "{" + " " * LONG, "is missing at character", 4),
    "empty tensors": (
        lambda: (
            "{"
            + ",".join(f'"{k:07}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for k in range(LONG // 56))
            + "}"
        ),
        "the tensors need 0 bytes, the file holds 4",
        25,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_huge_headers_need_memory_in_proportion(tmp_path: Path, bomb: str) -> None:
    made, says, times = BOMBS[bomb]
    path = file(tmp_path, made())
    outcome = opened(path, torch=False)
    assert outcome.kind == "InputError"
    assert says in outcome.said
    assert len(outcome.said) < 2000
    assert outcome.memory < times * path.stat().st_size + 20 * MEGABYTE
