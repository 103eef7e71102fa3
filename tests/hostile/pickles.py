"""An assembler for pickles that `torch.save` would never write."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

PROTOCOL = b"\x80\x02"
MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def row(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(*values: int) -> bytes:
    return row(*map(number, values))


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + row(*arguments) + b"R"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(elements: int, key: str = "0", kind: str = "FloatStorage", *view: bytes) -> bytes:
    return row(text("storage"), name(f"torch.{kind}"), text(key), text("cpu"), number(elements), *view) + b"Q"


def tensor(within: bytes, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0) -> bytes:
    strides = (1,) * len(shape) if strides is None else strides
    hooks = call("collections.OrderedDict")
    parts = (within, number(offset), numbers(*shape), numbers(*strides), b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *parts)


def program(value: bytes) -> bytes:
    return PROTOCOL + value + b"."


def entries(value: bytes, **storages: bytes) -> dict[str, bytes]:
    """The entries of an archive; storages are called `s0` and so on."""
    held = {f"x/data/{key[1:]}": content for key, content in storages.items()}
    return {"x/data.pkl": program(value), "x/byteorder": b"little", **held, "x/version": b"3\n"}


def archive(content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for member, held in content.items():
            made.writestr(member, held)
    return stream.getvalue()


def written(folder: Path, value: bytes, **storages: bytes) -> Path:
    """A checkpoint that holds this."""
    path = folder / "x.pt"
    path.write_bytes(archive(entries(value, **storages or {"s0": bytes(16)})))
    return path


def older(value: bytes, keys: bytes, content: bytes) -> bytes:
    """The format before torch 1.6: pickles one after the other, then the storages."""
    parts = (number(MAGIC), number(1001), mapping({"little_endian": b"\x88"}), value, keys)
    return b"".join(map(program, parts)) + content
