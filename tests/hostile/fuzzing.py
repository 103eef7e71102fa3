"""What is fuzzed: for each reader, sound inputs to spoil, words to spoil them with, and the property that must hold.

The property is always the same: a reader returns, or it raises `InputError` with a message that can be printed.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.hostile import pickles
from tests.hostile.oracle import sound
from weft.checkpoints.header import read_header
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError
from weft.recipes.loading import load_recipe

SAVED = save({"w": np.ones((2, 3), np.float32), "v": np.zeros(5, np.uint8)}, {"format": "pt"})


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: inputs to begin with.
        words: what to put into them.
        holds: checks the property; whether the input was accepted.
    """

    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    holds: Callable[[bytes], bool]


def refused(reads: Callable[[], object]) -> bool:
    """Whether it refuses, with a message for a terminal."""
    try:
        reads()
    except InputError as error:
        said = str(error)
    else:
        return False
    assert said.replace("\n", "").isprintable(), "the message can be printed"
    assert len(said) < 200_000, "the message has an end"
    return True


def header_holds(content: bytes) -> bool:
    """The header reader accepts what the oracle accepts, and sees the same in it."""
    seen: dict[str, tuple[str, list[int], int]] = {}

    def read() -> None:
        header = read_header(io.BytesIO(content), Path("x.safetensors"), len(content))
        for name, spec in header.tensors.items():
            seen[name] = (spec.dtype.code, list(spec.shape), header.offsets[name])

    accepted = not refused(read)
    expected = sound(content)
    assert accepted == (expected is not None), "as the oracle"
    assert not accepted or seen == expected, "what the oracle sees"
    return accepted


PARTS = {"x/data.pkl": b"", "x/byteorder": b"little", "x/data/0": bytes(16), "x/version": b"3\n"}


@cache
def folder() -> Path:
    """A place for files, on which nothing else depends."""
    place = Path(tempfile.mkdtemp(prefix="weft-fuzz-"))
    (place / "a.safetensors").write_bytes(SAVED)
    (place / "model").mkdir()
    (place / "model" / "model.safetensors").write_bytes(SAVED)
    return place


def opens(path: Path) -> bool:
    def read() -> None:
        checkpoint = open_checkpoint(path)
        buffer = np.empty(1 << 16, np.uint8)
        for name, spec in checkpoint.tensors.items():
            checkpoint.read(name, 0, min(spec.size, 1000), buffer)
        checkpoint.close()

    return not refused(read)


def index_holds(content: bytes) -> bool:
    path = folder() / "model.safetensors.index.json"
    path.write_bytes(content)
    return opens(path)


def config_holds(content: bytes) -> bool:
    (folder() / "model" / "config.json").write_bytes(content)
    return opens(folder() / "model")


def recipe_holds(content: bytes) -> bool:
    path = folder() / "recipe.yaml"
    path.write_bytes(content)
    return not refused(lambda: load_recipe(path))


def program_holds(content: bytes) -> bool:
    path = folder() / "x.pt"
    path.write_bytes(pickles.archive({**PARTS, "x/data.pkl": content}))
    return opens(path)


def archive_holds(content: bytes) -> bool:
    path = folder() / "y.pt"
    path.write_bytes(content)
    return opens(path)


# --- inputs -----------------------------------------------------------------------------------------------------------

NUMBERS = (b"0", b"1", b"-1", b"4", b"1e3", b"2147483648", b"9223372036854775808", b"1" * 30, b"true", b"null", b"NaN")
JSON = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"\xff", b"[" * 600, b"{}", b"[]", b'""', *NUMBERS)
ENTRY = b'"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
HEADERS = (
    SAVED,
    len(ENTRY + b"{}").to_bytes(8, "little") + b"{" + ENTRY + b"}" + bytes(24),
    save({"a": np.zeros((0, 3), np.float64), "b": np.zeros((), np.int64)}),
)
HEADER_WORDS = (*JSON, b'"F16"', b'"BF16"', b'"U8"', b'"__metadata__":{"a":"b"},', ENTRY + b",", b'"shape"', b"[0,24]")
INDICES = tuple(
    json.dumps({"metadata": {"total_size": 29}, "weight_map": weights}).encode()
    for weights in ({"w": "a.safetensors", "v": "a.safetensors"}, {"w": "../a.safetensors"}, {"w": "b.safetensors"})
)
INDEX_WORDS = (*JSON, b"../", b"/dev/zero", b"a.safetensors", b"\\u0000", b"weight_map", b".bin", b"\\u001b[2J")
CONFIGS = (
    b'{"architectures":["LlamaForCausalLM"],"vocab_size":2,"text_config":{"vocab_size":2}}',
    b'{"quantization_config":{"quant_method":"fp8","weight_block_size":[2,2],"bits":4,"config_groups":{"a":{}}}}',
    b'{"quantization":{"bits":4},"compression_config":{"quant_method":"gptq","sparsity_config":{"format":"x"}}}',
)
RECIPES = (
    b"method: ties\nbase: o\nmodels: [a, {path: b, weight: 2, name: c}]\nparameters: {density: 0.2}\n",
    b"method: linear\nmodels: [&a a, *a]\nrules:\n- {match: '*head*', use: a}\n- &r {match: ['re:x.*'], method: ties}\n"
    b"- {<<: *r}\noutput: {dtype: bfloat16, shard_size: 5GB}\nrename: {'re:(a)': '\\1b', c: d}\non_missing: base\n",
)
RECIPE_WORDS = (
    b"&a ",
    b"*a",
    b"<<: ",
    b"? ",
    b"- ",
    b": ",
    b"\n",
    b"  ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"'",
    b'"',
    b"!!int ",
    b"!!python/object:os.system ",
    b"|",
    b">",
    b"%",
    b"---\n",
    b"~",
    b"yes",
    b".nan",
    b".inf",
    b"2024-01-01",
    b"1:1:1",
    b"0x1f",
    b"=",
    b"re:(",
    b"re:(a+)+",
    b"\\e",
    b"\x00",
    b"\xff",
    b"models",
    b"rules",
    b"match",
    b"[[[[",
    *NUMBERS,
)
TENSOR = pickles.tensor(pickles.storage(4), (2, 2), (2, 1))
PROGRAMS = (
    pickles.program(pickles.mapping({"w": TENSOR, "v": TENSOR})),
    pickles.program(
        pickles.mapping(
            {
                "m": pickles.mapping({"w": pickles.call("torch._utils._rebuild_parameter", TENSOR, b"\x88", b"N")}),
                "epoch": b"K\x03",
            }
        )
    ),
)
PROGRAM_WORDS = (
    *(bytes([k]) for k in b"(}].tuQRbseahjqKNMJXc0lopd2" + bytes(range(0x80, 0x99))),
    TENSOR,
    pickles.storage(4),
    pickles.number(-1),
    pickles.number(2**40),
    pickles.number(4),
    b"(t",
    b"h\x00",
    b"q\x00",
    pickles.name("torch.Size"),
    pickles.name("collections.OrderedDict"),
    pickles.name("torch.Tensor"),
    pickles.name("torch._utils._rebuild_tensor_v3"),
    pickles.name("torch.float32"),
    pickles.name("os.system"),
    pickles.call("_codecs.encode", pickles.text("a"), pickles.text("latin1")),
    pickles.call("builtins.set"),
)
ARCHIVES = (
    pickles.archive({**PARTS, "x/data.pkl": PROGRAMS[0]}),
    pickles.older(
        pickles.mapping({"w": pickles.tensor(pickles.storage(4, "0", "FloatStorage", b"N"), (2, 2), (2, 1))}),
        b"](" + pickles.text("0") + b"e",
        (4).to_bytes(8, "little") + bytes(16),
    ),
)
ARCHIVE_WORDS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"\xff\xff\xff\xff",
    bytes(4),
    *PROGRAM_WORDS,
)

TARGETS = {
    "header": Target(HEADERS, HEADER_WORDS, header_holds),
    "index": Target(INDICES, INDEX_WORDS, index_holds),
    "config": Target(CONFIGS, JSON, config_holds),
    "recipe": Target(RECIPES, RECIPE_WORDS, recipe_holds),
    "pickle": Target(PROGRAMS, PROGRAM_WORDS, program_holds),
    "archive": Target(ARCHIVES, ARCHIVE_WORDS, archive_holds),
}


def spoiled(target: Target, chance: random.Random) -> bytes:
    """A sound input with a few changes: bytes flipped, taken out, repeated, words put in."""
    content = bytearray(chance.choice(target.seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 12))):
        begin = chance.randrange(len(content) + 1)
        end = min(begin + chance.choice((0, 0, 1, 1, 2, 4, 16)), len(content))
        what = chance.randrange(5)
        if what == 0 and begin < len(content):
            content[begin] ^= 1 << chance.randrange(8)
        elif what == 1:
            del content[begin:end]
        elif what == 2:
            content[begin:end] = chance.choice(target.words)
        elif what == 3:
            content[begin:begin] = content[begin : begin + chance.choice((1, 8, 64))]
        else:
            content[begin:end] = chance.randbytes(end - begin)
    mended = target.holds is header_holds and chance.random() < 0.7
    return with_length(bytes(content)) if mended else bytes(content)


def with_length(content: bytes) -> bytes:
    """A header's length made to fit again, so that what is behind it is reached."""
    end = content.rfind(b"}") + 1
    return max(end - 8, 0).to_bytes(8, "little") + content[8:]
