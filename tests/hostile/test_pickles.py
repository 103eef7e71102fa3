"""Pickles that run code, fill the memory, show what is none of theirs, or crash the reader."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.hostile.limited import MEGABYTE, opened
from tests.hostile.pickles import (
    PROTOCOL,
    archive,
    call,
    entries,
    mapping,
    name,
    number,
    numbers,
    older,
    program,
    row,
    storage,
    tensor,
    text,
    written,
)
from weft.checkpoints.opening import open_checkpoint
from weft.errors import InputError

FOUR = storage(4)
SOUND = tensor(FOUR, (4,))


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "->" in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def one(value: bytes) -> bytes:
    return mapping({"w": value})


def test_the_assembler_makes_what_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(written(tmp_path, one(SOUND), s0=np.arange(4, dtype="<f4").tobytes()))
    assert checkpoint.read("w", 0, 4, np.empty(16, np.uint8)).tolist() == [0, 1, 2, 3]
    checkpoint.close()


def test_the_assembler_makes_the_older_format_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    view = row(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(4), b"N") + b"Q"
    content = struct.pack("<q", 4) + np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(older(one(tensor(view, (4,))), b"](" + text("0") + b"e", content))
    checkpoint = open_checkpoint(path)
    assert checkpoint.read("w", 0, 4, np.empty(16, np.uint8)).tolist() == [0, 1, 2, 3]
    checkpoint.close()


# --- code -------------------------------------------------------------------------------------------------------------

CODE = {
    "a shell": ("posix.system", text("touch trace")),
    "os": ("os.system", text("touch trace")),
    "eval": ("__builtin__.eval", text("open('trace','w')")),
    "exec": ("builtins.exec", text("open('trace','w')")),
    "open": ("builtins.open", text("trace") + text("w")),
    "getattr": ("builtins.getattr", name("torch.Tensor") + text("__class__")),
    "subprocess": ("subprocess.Popen", text("touch trace")),
    "run_code": ("runpy._run_code", text("open('trace','w')")),
    "torch's own loader": ("torch.load", text("other.pt")),
    "torch.hub": ("torch.hub.load", text("stranger/repository")),
    "a mapped file": ("torch.UntypedStorage.from_file", text("/etc/passwd") + b"\x89" + number(10)),
    "numpy's loader": ("numpy.load", text("other.npy")),
    "ctypes": ("ctypes.CDLL", text("./evil.so")),
    "a number of bytes": ("numpy.core.multiarray.scalar", text("x")),
    "uninitialised memory": ("torch.FloatTensor", number(1 << 20)),
    "uninitialised memory as a tensor": ("torch.Tensor", number(1 << 20)),
    "uninitialised memory as a storage": ("torch.storage.UntypedStorage", number(1 << 20)),
    "a subclass": ("torch._utils._rebuild_wrapper_subclass", name("torch.Tensor")),
}


@pytest.mark.parametrize("attack", CODE)
def test_code_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.chdir(tmp_path)
    function, argument = CODE[attack]
    for value in (call(function, argument), one(call(function, argument)), name(function) + argument + b"\x85\x81"):
        said = complaint(written(tmp_path, value))
        wanted = function.removeprefix("builtins.").removeprefix("__builtin__.")
        assert f"loading it may run code, so it was not loaded: besides tensors it asks for {wanted}" in said
        path = tmp_path / "old.pt"
        path.write_bytes(older(value, b"]", b""))
        assert f"it asks for {wanted}" in complaint(path)
    assert not (tmp_path / "trace").exists()


def test_code_hidden_in_how_a_tensor_is_made(tmp_path: Path) -> None:
    inner = row(name("posix.system"), name("torch.Tensor"), row(text("touch trace")), b"N")
    said = complaint(written(tmp_path, one(name("torch._tensor._rebuild_from_type_v2") + inner + b"R")))
    assert "it asks for posix.system" in said


# --- lies -------------------------------------------------------------------------------------------------------------

FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
STATE = "torch._utils._rebuild_parameter_with_state"
LIES: dict[str, tuple[bytes, str]] = {
    "beyond its storage": (tensor(FOUR, (5,)), "shape [5] reaches to element 4 of a storage of 4"),
    "beyond it by an offset": (tensor(FOUR, (4,), offset=1), "reaches to element 4 of a storage of 4"),
    "beyond it by a stride": (tensor(FOUR, (2, 2), (4, 1)), "reaches to element 5 of a storage of 4"),
    "a negative offset": (tensor(FOUR, (2,), offset=-1), "a tensor is made of (-1,"),
    "a negative stride": (tensor(FOUR, (2,), (-1,)), "a tensor's shape is made of (-1,)"),
    "a negative size": (tensor(FOUR, (-2,)), "a tensor's shape is made of (-2,)"),
    "sizes that overflow": (tensor(FOUR, (2**40, 2**40), (0, 0)), "repeats 4 stored numbers"),
    "empty, of sizes that overflow": (tensor(FOUR, (0, 2**40, 2**40)), "has sizes whose product overflows"),
    "a petabyte of one number": (tensor(FOUR, (2**48,), (0,)), "repeats 4 stored numbers 281,474,976,710,656 times"),
    "more strides than sizes": (tensor(FOUR, (2,), (1, 1)), "a tensor is made of"),
    "sixty-five dimensions": (tensor(FOUR, (1,) * 65), "a tensor's shape is made of"),
    "sizes that are no numbers": (
        call("torch._utils._rebuild_tensor_v2", FOUR, number(0), row(text("4")), numbers(1), b"\x89", b"N"),
        "a tensor's shape is made of ('4',)",
    ),
    "a storage that claims too much": (tensor(storage(2**40), (4,)), "storage '0' has 4,398,046,511,104 bytes, the"),
    "a storage of negative length": (tensor(storage(-4), (4,)), "is no storage"),
    "a storage that is not there": (tensor(storage(4, "7"), (4,)), "storage '7' has 16 bytes, the file does not"),
    "a storage in another folder": (tensor(storage(4, "../0"), (4,)), "storage '../0' has 16 bytes, the file does not"),
    "a storage of two kinds": (
        row(tensor(FOUR, (4,)), tensor(storage(2, kind="DoubleStorage"), (2,))),
        "storage '0' is two different things",
    ),
    "a storage that is a number": (number(3) + b"Q", "3 is no storage"),
    "a storage of text": (row(text("module")) + b"Q", "('module',) is no storage"),
    "a tensor of nothing": (call("torch._utils._rebuild_tensor_v2"), "a tensor is made of ()"),
    "quantised, beyond its storage": (
        call("torch._utils._rebuild_qtensor", FOUR, number(0), numbers(2**40), numbers(1), b"N"),
        "reaches to element",
    ),
    "a length in the place of bytes": (call("builtins.bytearray", number(10**12)), "a string of bytes is made of"),
    "a codec that takes quadratic time": (call("_codecs.encode", text("x"), text("idna")), "('x', 'idna')"),
    "a tensor whose storage is changed afterwards": (SOUND + row(FOUR, number(0), numbers(2**30)) + b"b", "it changes"),
    "a parameter that is no tensor": (call("torch._utils._rebuild_parameter", number(1)), "a parameter is made of"),
    "an attribute of special meaning": (call(STATE, SOUND, b"\x89", b"N", mapping({"data": number(1)})), "attributes"),
    "a type that is none": (call(FROM_TYPE, name("torch.Size"), name("torch.Tensor"), b")", b"N"), "a tensor is made"),
    "a key that is a dict": (b"}" + row(b"}") + b"Ns", "is a key of a dict"),
    "a set of sets": (call("builtins.set", b"](" + row(row(b")")) + b"e"), "a set is made of"),
    "a memo that was never filled": (b"h\x07", "it recalls what it never stored (7)"),
    "a mark that is missing": (b"t", "damaged"),
    "text of four gigabytes": (b"X\xff\xff\xff\xff", "it ends in the middle, or is too long"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_found_before_torch_sees_them(tmp_path: Path, lie: str) -> None:
    value, says = LIES[lie]
    said = complaint(written(tmp_path, one(value)))
    assert "not a torch checkpoint, or damaged" in said or "may run code" in said
    assert says in said


@pytest.mark.parametrize("fault", ["\x1b[2J", "a\x07", "\u202eevil", "\ud800", "", "x" * 1001])
def test_names_that_cannot_be_printed(tmp_path: Path, fault: str) -> None:
    said = complaint(written(tmp_path, mapping({fault: SOUND})))
    assert "the name is empty or holds characters" in said or "the name has 1,001 characters" in said
    assert said.replace("\n", "").isprintable()


# --- bombs ------------------------------------------------------------------------------------------------------------


def doubling(levels: int) -> bytes:
    """Dicts that hold the one before it twice: 2^levels, if each is looked at whenever it is met."""
    value = b"}q\x00"
    for k in range(levels):
        value = b"}(" + text("a") + value + text("b") + b"h" + bytes([k]) + b"uq" + bytes([k + 1])
    return value


def again(times: int, shared: bytes, function: str, *more: bytes) -> bytes:
    """A call with the same large argument, many times."""
    return shared + b"q\x00(" + (name(function) + b"(h\x00" + b"".join(more) + b"tR") * times + b"t"


COPIES = "its calls copy more than it holds"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "dicts of dicts, doubled": (lambda: doubling(200), "holds no dict of tensors"),
    "dicts a hundred thousand deep": (
        lambda: b"}" + (text("a") + b"}") * 100_000 + b"s" * 100_000,
        "holds no dict of tensors",
    ),
    "tuples a million deep as a key": (lambda: b"})" + b"\x85" * 1_000_000 + b"Ns", "is a key of a dict"),
    "tuples a million deep": (lambda: b")" + b"\x85" * 1_000_000, "holds no dict of tensors"),
    "text encoded again and again": (
        lambda: again(20_000, text("x" * 10**6), "_codecs.encode", text("latin1")),
        COPIES,
    ),
    "a list copied into sets again and again": (
        lambda: again(50_000, b"](" + number(1) * 10**5 + b"e", "builtins.set"),
        COPIES,
    ),
    "twelve million lists": (lambda: b"(" + b"]" * 12_000_000 + b"t", "it has more than 10,000,000 instructions"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_go_off_in_little_memory_and_time(tmp_path: Path, bomb: str) -> None:
    made, says = BOMBS[bomb]
    outcome = opened(written(tmp_path, made()))
    assert outcome.kind == "InputError"
    assert says in outcome.said
    assert outcome.memory < 1500 * MEGABYTE


# --- archives ---------------------------------------------------------------------------------------------------------

GOOD = entries(one(SOUND), s0=bytes(16))


def with_flag(content: bytes) -> bytes:
    """Every entry is said to be encrypted."""
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = content.split(signature)
        content = signature.join([parts[0], *(p[: place - 4] + b"\x01" + p[place - 3 :] for p in parts[1:])])
    return content


def said_size(content: bytes, size: int) -> bytes:
    """The first entry is said to have this size, in the directory at the end."""
    place = content.index(b"PK\x01\x02")
    return content[: place + 20] + struct.pack("<LL", size, size) + content[place + 28 :]


def twice() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for member, held in GOOD.items():
            file.writestr(member, held)
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x/data.pkl", program(call("posix.system", text("true"))))
    return made.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (lambda: archive(GOOD, zipfile.ZIP_DEFLATED), "the archive is compressed"),
    "compressed with bzip2": (lambda: archive(GOOD, zipfile.ZIP_BZIP2), "the archive is compressed"),
    "a gigabyte of zeros, compressed": (
        lambda: archive({**GOOD, "x/data/0": bytes(1 << 28)}, zipfile.ZIP_DEFLATED),
        "the archive is compressed",
    ),
    "two programs of one name": (twice, "it has entries of the same name"),
    "two programs by case": (lambda: archive({**GOOD, "x/DATA.PKL": b"."}), "it has entries of the same name"),
    "two folders": (lambda: archive({**GOOD, "y/data.pkl": b"."}), "or in several folders"),
    "something before it": (lambda: b"PK\x03\x04" + archive(GOOD), "something stands before it"),
    "something after it": (lambda: archive(GOOD) + b"x" * 10, "it was cut off, or something follows it"),
    "encrypted": (lambda: with_flag(archive(GOOD)), "encrypted"),
    "an entry of four gigabytes": (lambda: said_size(archive(GOOD), 0xFFFFFFF0), "damaged"),
    "a byte order of a megabyte": (lambda: archive({**GOOD, "x/byteorder": bytes(1 << 20)}), "x/byteorder is too long"),
    "another byte order": (lambda: archive({**GOOD, "x/byteorder": b"middle"}), "damaged"),
    "without a program": (lambda: archive({"x/data/0": bytes(16)}), "a zip archive, not a checkpoint"),
    "a program that is empty": (lambda: archive({**GOOD, "x/data.pkl": b""}), "it ends in the middle"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives(tmp_path: Path, kind: str) -> None:
    made, says = ARCHIVES[kind]
    (tmp_path / "x.pt").write_bytes(made())
    assert says in complaint(tmp_path / "x.pt")


# --- the older format -------------------------------------------------------------------------------------------------

VIEWED = row(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(4), b"N") + b"Q"
KEYS = b"](" + text("0") + b"e"
CONTENT = struct.pack("<q", 4) + bytes(16)


def viewed(begin: int, elements: int, key: str = "v") -> bytes:
    view = row(text(key), number(begin), number(elements))
    return row(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(4), view) + b"Q"


OLDER: dict[str, tuple[bytes, str]] = {
    "a storage that is never filled": (older(one(tensor(VIEWED, (4,))), b"]", CONTENT), "does not hold the storages"),
    "a terabyte": (
        older(one(tensor(VIEWED.replace(number(4), number(2**38)), (4,))), KEYS, CONTENT),
        "its storages need 1,099,511,627,784 bytes",
    ),
    "cut off": (older(one(tensor(VIEWED, (4,))), KEYS, CONTENT[:20]), "its storages need 24 bytes, 20 are left"),
    "a view beyond its storage": (older(one(tensor(viewed(2, 4), (4,))), KEYS, CONTENT), "is no view of storage '0'"),
    "a view before its storage": (older(one(tensor(viewed(-2, 4), (4,))), KEYS, CONTENT), "is no view of a storage"),
    "a tensor beyond its view": (older(one(tensor(viewed(2, 2), (4,))), KEYS, CONTENT), "of a storage of 2"),
    "a view that is called as its storage": (
        older(one(tensor(viewed(0, 4, "0"), (4,))), KEYS, CONTENT),
        "is no view of storage '0'",
    ),
    "another magic number": (program(number(7)) * 6, "damaged"),
    "nothing after the first pickle": (program(mapping({"w": number(1)})), "damaged"),
}


@pytest.mark.parametrize("kind", OLDER)
def test_the_older_format(tmp_path: Path, kind: str) -> None:
    content, says = OLDER[kind]
    (tmp_path / "x.pt").write_bytes(content)
    assert says in complaint(tmp_path / "x.pt")


def test_a_tar_archive_that_begins_as_a_pickle(tmp_path: Path) -> None:
    """Torch would unpack it into a temporary folder, links and all."""
    member = tarfile.TarInfo((PROTOCOL + b"N.").decode("latin1"))
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "x.pt", "w", format=tarfile.GNU_FORMAT, encoding="latin1") as tar:
        tar.addfile(member)
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[257:265] = bytes(8)  # the old form, without its signature
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "x.pt").write_bytes(content)
    assert tarfile.is_tarfile(tmp_path / "x.pt")
    assert "it is a tar archive" in complaint(tmp_path / "x.pt")


def test_every_protocol_of_an_honest_attack(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'trace'}",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pt").write_bytes(pickle.dumps({"w": Attack()}, protocol))
        assert "it asks for posix.system" in complaint(tmp_path / "x.pt")
    assert not (tmp_path / "trace").exists()
