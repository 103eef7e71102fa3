"""What a torch pickle may ask for: the names, and for each call what its arguments must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from weft.errors import shown

LARGEST_REPEATED = 1 << 30
"""Bytes of a tensor whose numbers overlap in its storage (an expanded one): a kilobyte could ask for petabytes."""

_STORAGES: Mapping[str, int] = {
    **{f"torch.{kind}Storage": size for kind, size in {
        "ComplexDouble": 16, "ComplexFloat": 8, "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4,
        "Short": 2, "Char": 1, "Byte": 1, "Bool": 1, "QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1,
    }.items()},
    "torch.storage.UntypedStorage": 1,
}  # fmt: skip
_DTYPES: Mapping[str, int] = {
    "float64": 8, "double": 8, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "complex32": 4,
    "complex64": 8, "complex128": 16, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1, "quint8": 1, "qint8": 1, "qint32": 4,
    "quint4x2": 1, "quint2x4": 1,
}  # fmt: skip
_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter")
_QUANTISED = tuple(f"torch.per_{scope}_{kind}" for scope in ("tensor", "channel") for kind in ("affine", "symmetric"))
_CODECS = ("latin1", "latin-1", b"latin1", b"latin-1")


class ForbiddenError(Exception):
    """The pickle asks for something else than tensors. Its text is the name of that."""


class ProgramError(Exception):
    """The pickle is not what torch.save writes; its text says how."""


@dataclass(frozen=True, slots=True)
class Named:
    """Stands for what is imported by this name."""

    name: str

    @classmethod
    def allowed(cls, name: str) -> Named:
        """The stand-in for a name.

        Raises:
            ForbiddenError: unless it is one that tensors are made of.
        """
        name = name.replace("__builtin__.", "builtins.", 1) if name.startswith("__builtin__.") else name
        known = name in _CALLS or name in _STORAGES or name in (*_TYPES, *_QUANTISED)
        if not known and name.removeprefix("torch.") not in _DTYPES:
            raise ForbiddenError(name.removeprefix("builtins."))
        return cls(name)


@dataclass(frozen=True, slots=True, eq=False)
class Called:
    """Stands for what a call would return."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands for a storage, or a view of one.

    Attributes:
        kind: its type's name.
        key: what the file calls it.
        begin, elements: the part of it, in elements of its kind.
    """

    kind: str
    key: str
    begin: int
    elements: int


def item_bytes(name: str) -> int | None:
    """Bytes of an element in a storage of this type; None if it is no storage."""
    return _STORAGES.get(name)


def check_call(function: str, arguments: tuple[Any, ...]) -> int:
    """See that a call does no harm.

    Returns:
        What it copies, in elements, so that the caller can see that this remains in proportion.

    Raises:
        ForbiddenError: for what may not be called.
        ProgramError: if its arguments are not what torch.save writes.
    """
    check = _CALLS.get(function)
    if check is None:
        raise ForbiddenError(function.removeprefix("builtins."))
    check(arguments)
    return sum(len(a) for a in arguments if isinstance(a, (str, bytes, list, tuple, dict, set)))


def _need(holds: object, what: str, arguments: Any) -> None:
    if not holds:
        raise ProgramError(f"{what} is made of {shown(arguments)}")


def _counts(value: Any) -> Sequence[int]:
    """Sizes or strides: whole numbers that are not negative."""
    if isinstance(value, Called) and value.function == "torch.Size" and len(value.arguments) == 1:
        value = value.arguments[0]
    whole = isinstance(value, (tuple, list)) and len(value) <= 64
    _need(whole and all(type(n) is int and 0 <= n < 2**62 for n in value), "a tensor's shape", value)
    return tuple(value)


def _tensor(arguments: tuple[Any, ...]) -> None:
    """`(storage, offset, size, stride, ...)`, in elements of the storage."""
    _need(len(arguments) >= 4 and isinstance(arguments[0], Stored), "a tensor", arguments)
    _check_extent(arguments, arguments[0].elements, _STORAGES[arguments[0].kind])


def _typed_tensor(arguments: tuple[Any, ...]) -> None:
    """The same with a number format of its own, in whose elements the rest is."""
    _need(len(arguments) >= 7 and isinstance(arguments[0], Stored), "a tensor", arguments)
    storage, dtype = arguments[0], arguments[6]
    size = _DTYPES.get(dtype.name.removeprefix("torch.")) if isinstance(dtype, Named) else None
    _need(size, "a tensor", arguments)
    _check_extent(arguments, storage.elements * _STORAGES[storage.kind] // (size or 1), size or 1)


def _check_extent(arguments: tuple[Any, ...], elements: int, item: int) -> None:
    offset, shape, strides = arguments[1], _counts(arguments[2]), _counts(arguments[3])
    _need(type(offset) is int and 0 <= offset < 2**62 and len(shape) == len(strides), "a tensor", arguments[1:4])
    count = prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else -1
    if last >= elements:
        what = f"a tensor of shape {list(shape)} reaches to element {last:,} of a storage of {elements:,}"
        raise ProgramError(what)
    if count > elements and count * item > LARGEST_REPEATED:
        raise ProgramError(f"a tensor of shape {list(shape)} repeats {elements:,} stored numbers {count:,} times")
    if not count and prod(n or 1 for n in shape) * item >= 2**63:
        raise ProgramError(f"a tensor of shape {list(shape)} has sizes whose product overflows")


def _on_no_device(arguments: tuple[Any, ...]) -> None:
    _need(len(arguments) >= 3, "a tensor", arguments)
    _need(prod(n or 1 for n in _counts(arguments[1])) < 2**60, "a tensor", arguments)
    _counts(arguments[2])


def _parameter(arguments: tuple[Any, ...]) -> None:
    _need(arguments and isinstance(arguments[0], Called), "a parameter", arguments)
    if len(arguments) > 3:
        _check_state(arguments[3])


def _of_type(arguments: tuple[Any, ...]) -> None:
    """`(function, type, its arguments, state)`: what the function makes, as a type of tensor."""
    _need(len(arguments) == 4 and isinstance(arguments[0], Named), "a tensor", arguments)
    function, kind, inner, state = arguments
    _need(isinstance(kind, Named) and isinstance(inner, tuple), "a tensor", arguments)
    if kind.name not in _TYPES:
        raise ForbiddenError(kind.name)
    _need(function.name.startswith("torch._utils._rebuild_"), "a tensor", arguments)
    check_call(function.name, inner)
    _check_state(state)


def _check_state(state: Any) -> None:
    """Attributes of a tensor: few, of no special meaning, and plain."""
    if not state:
        return
    fits = isinstance(state, dict) and len(state) <= 64
    plain = fits and all(
        isinstance(key, str) and key.isidentifier() and key not in _SPECIAL and not key.startswith("__")
        and isinstance(value, (bool, int, float, str, type(None)))
        for key, value in state.items()
    )  # fmt: skip
    _need(plain, "a tensor's attributes", state)


_SPECIAL = ("data", "grad", "requires_grad", "names", "real", "imag", "shape", "_backward_hooks")


def _plain(arguments: tuple[Any, ...]) -> None:
    """What is copied is counted by the caller."""


def _set(arguments: tuple[Any, ...]) -> None:
    flat = len(arguments) <= 1 and all(isinstance(some, (list, tuple)) for some in arguments)
    scalars = (str, bytes, int, float, type(None))
    _need(flat and all(isinstance(item, scalars) for some in arguments for item in some), "a set", arguments)


def _counter(arguments: tuple[Any, ...]) -> None:
    _need(len(arguments) <= 1 and all(isinstance(some, dict) for some in arguments), "a counter", arguments)


def _ordered(arguments: tuple[Any, ...]) -> None:
    """Empty, as Python 3 writes it; or of pairs, as Python 2 did."""
    pairs = arguments[0] if arguments else []
    fits = len(arguments) <= 1 and isinstance(pairs, list)
    _need(fits and all(isinstance(p, (list, tuple)) and len(p) == 2 and isinstance(p[0], str) for p in pairs),
          "an ordered dict", arguments)  # fmt: skip


def _encoded(arguments: tuple[Any, ...]) -> None:
    fits = len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] in _CODECS
    _need(fits, "a string of bytes", arguments)


def _bytes(arguments: tuple[Any, ...]) -> None:
    """Of bytes, never of a length."""
    first = arguments[0] if arguments else b""
    encoded = isinstance(first, Called) and first.function == "_codecs.encode"
    fits = encoded or isinstance(first, bytes) or (isinstance(first, str) and arguments[1:] in {(c,) for c in _CODECS})
    _need(fits and len(arguments) <= 2, "a string of bytes", arguments)


def _numbers(arguments: tuple[Any, ...]) -> None:
    _need(all(type(n) in (int, float) for n in arguments) and len(arguments) <= 2, "a number", arguments)


def _words(arguments: tuple[Any, ...]) -> None:
    short = all(isinstance(w, (str, int)) and len(str(w)[:99]) < 99 for w in arguments)
    _need(short and len(arguments) <= 2, "a device or layout", arguments)


def _size(arguments: tuple[Any, ...]) -> None:
    _need(len(arguments) == 1, "a shape", arguments)
    _counts(arguments[0])


_CALLS: Mapping[str, Callable[[tuple[Any, ...]], None]] = {
    "builtins.bytearray": _bytes,
    "builtins.complex": _numbers,
    "builtins.set": _set,
    "_codecs.encode": _encoded,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _on_no_device,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_sparse_tensor": _plain,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch.device": _words,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.serialization._get_layout": _words,
}
