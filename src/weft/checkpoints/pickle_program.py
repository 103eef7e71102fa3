"""A torch pickle, followed step by step without doing any of it, before torch is let near it.

Torch's weights-only reader runs no foreign code, but what it does run can be made to harm: `bytearray(10**12)` fills
the memory, a tensor that reaches beyond its storage shows whatever lay there, a tuple nested a million times crashes
when it is hashed. So a pickle is first walked through with stand-ins for everything: names, calls, storages. What is
let through asks only for what `torch.save` asks for, and every tensor lies within a storage that the file really holds.
Memory and time are bounded by the length of the program.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, BinaryIO

from weft.checkpoints.pickle_calls import Called, ForbiddenError, Named, ProgramError, Stored, check_call, item_bytes
from weft.errors import shown

LONGEST = 64 << 20
"""Bytes of a program, storages not counted; a model with a hundred thousand tensors has some 15 MB."""
STEPS = 10_000_000
"""Instructions of a program; some 40 make a tensor."""

_SCALARS = (str, bytes, int, float, type(None))
_MAPS = ("collections.OrderedDict", "collections.Counter")
_MARK = object()


@dataclass
class Storages:
    """What a program says of the storages that its tensors lie in.

    Attributes:
        held: bytes of each storage in the file, by key; None if that is not known yet.
        claimed: bytes of each storage, by key, as the program has it.
    """

    held: Mapping[str, int] | None = None
    claimed: dict[str, int] = field(default_factory=dict)
    _seen: dict[tuple[str, bool], Stored] = field(default_factory=dict)

    def named(self, identity: Any) -> Stored:
        """The storage that a persistent id means.

        Raises:
            ProgramError: if it is none, or claims more than the file holds, or something else than it did before.
        """
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] not in ("storage", b"storage"):
            raise ProgramError(f"{shown(identity)} is no storage")
        kind, key, _, elements, *rest = identity[1:]
        size = item_bytes(kind.name) if isinstance(kind, Named) else None
        if size is None or not isinstance(key, (str, bytes)) or not _is_count(elements):
            raise ProgramError(f"{shown(identity)} is no storage")
        name = key if isinstance(key, str) else key.decode("ascii", "replace")
        whole = self._consistent((name, False), Stored(kind.name, name, 0, elements))
        self.claimed[name] = elements * size
        held = self.claimed[name] if self.held is None else self.held.get(name, -1)
        if self.claimed[name] > held:
            what = f"holds {held:,}" if held >= 0 else "does not hold it"
            raise ProgramError(f"storage {shown(name)} has {self.claimed[name]:,} bytes, the file {what}")
        return self._view(whole, rest[0]) if rest and rest[0] is not None else whole

    def _view(self, whole: Stored, view: Any) -> Stored:
        if not isinstance(view, tuple) or len(view) != 3 or not all(map(_is_count, view[1:])):
            raise ProgramError(f"{shown(view)} is no view of a storage")
        key, begin, elements = view
        if begin + elements > whole.elements or not isinstance(key, str) or (key, False) in self._seen:
            raise ProgramError(f"{shown(view)} is no view of storage {shown(whole.key)}")
        return self._consistent((key, True), Stored(whole.kind, whole.key, begin, elements))

    def _consistent(self, place: tuple[str, bool], storage: Stored) -> Stored:
        if self._seen.setdefault(place, storage) != storage or (not place[1] and (place[0], True) in self._seen):
            raise ProgramError(f"storage {shown(place[0])} is two different things")
        return storage


def follow(stream: BinaryIO, most: int, storages: Storages) -> Any:
    """Walk through one pickle.

    Args:
        stream: where it begins; afterwards, where it ends.
        most: bytes that are left in the file.
        storages: collects the storages that it names.

    Returns:
        What it makes, with stand-ins.

    Raises:
        ForbiddenError: if it asks for anything but what tensors are made of, with the name of that.
        ProgramError: if it lies about its tensors, or is too long.
        UnpicklingError: for an instruction that torch does not write.
        Exception: of any kind if it is damaged.

    Example:
        >>> import io
        >>> follow(io.BytesIO(pickle.dumps({"epoch": [1, 2]}, 2)), 100, Storages())
        {'epoch': [1, 2]}
    """
    return _Machine(stream, min(most, LONGEST), storages).run()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


class _Machine:
    """The stack, the memo and the place in the program."""

    def __init__(self, stream: BinaryIO, most: int, storages: Storages) -> None:
        self._stream = stream
        self._left = most
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._allowance = max(most, 1 << 16)

    def run(self) -> Any:
        """Step by step to the end."""
        for _ in range(STEPS):
            code = self._take(1)
            if code == pickle.STOP:
                return self._stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise UnpicklingError(f"instruction {code!r} is not one that torch writes")
            step(self)
        raise ProgramError(f"it has more than {STEPS:,} instructions")

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise ProgramError("it ends in the middle, or is too long")
        self._left -= count
        taken = self._stream.read(count)
        if len(taken) < count:
            raise ProgramError("it ends in the middle")
        return taken

    def _number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(count), "little", signed=signed)

    def _line(self) -> str:
        line = self._stream.readline(1000)
        self._left -= len(line)
        return line.rstrip(b"\n").decode()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _after_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ProgramError("a mark is missing")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _pack(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise ProgramError("its stack is empty")
        self._stack[-count:] = [items]

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ProgramError("something is appended to what is no list")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) and not (isinstance(target, Called) and target.function in _MAPS):
            raise ProgramError("something is put into what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            if isinstance(target, dict):
                target[key] = value

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise ProgramError(f"it calls {shown(function)}")
        self._allowance -= check_call(function.name, arguments)
        if self._allowance < 0:
            raise ProgramError("its calls copy more than it holds")
        self._push(Called(function.name, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Called) or target.function not in _MAPS or not isinstance(state, dict):
            raise ProgramError(f"it changes {shown(target)}")
        self._allowance -= len(state)

    def _protocol(self) -> None:
        self._take(1)

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._push(Named.allowed(f"{module}.{name}"))

    def _text(self) -> None:
        self._push(self._take(self._number(4)).decode("utf-8", "surrogatepass"))

    def _remember(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise ProgramError(f"it recalls what it never stored ({number})")
        self._push(self._memo[number])


def _check_key(key: Any) -> None:
    """A key must be cheap to hash: hashing a deeply nested tuple overflows the interpreter's own stack."""
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) > 64 or not all(isinstance(part, _SCALARS) for part in parts):
        raise ProgramError(f"{shown(key)} is a key of a dict")


_STEPS: Mapping[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _Machine._protocol,
    pickle.MARK: lambda m: m._push(_MARK),
    pickle.NONE: lambda m: m._push(None),
    pickle.NEWTRUE: lambda m: m._push(True),
    pickle.NEWFALSE: lambda m: m._push(False),
    pickle.EMPTY_TUPLE: lambda m: m._push(()),
    pickle.EMPTY_LIST: lambda m: m._push([]),
    pickle.EMPTY_DICT: lambda m: m._push({}),
    pickle.EMPTY_SET: lambda m: m._push(set()),
    pickle.BININT: lambda m: m._push(m._number(4, signed=True)),
    pickle.BININT1: lambda m: m._push(m._number(1)),
    pickle.BININT2: lambda m: m._push(m._number(2)),
    pickle.LONG1: lambda m: m._push(m._number(m._number(1), signed=True)),
    pickle.BINFLOAT: lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    pickle.BINUNICODE: _Machine._text,
    pickle.SHORT_BINSTRING: lambda m: m._push(m._take(m._number(1))),
    pickle.TUPLE: lambda m: m._push(tuple(m._after_mark())),
    pickle.TUPLE1: lambda m: m._pack(1),
    pickle.TUPLE2: lambda m: m._pack(2),
    pickle.TUPLE3: lambda m: m._pack(3),
    pickle.APPEND: lambda m: m._extend([m._stack.pop()]),
    pickle.APPENDS: lambda m: m._extend(m._after_mark()),
    pickle.SETITEM: lambda m: m._set([m._stack.pop(-2), m._stack.pop()]),
    pickle.SETITEMS: lambda m: m._set(m._after_mark()),
    pickle.BINPUT: lambda m: m._remember(m._number(1)),
    pickle.LONG_BINPUT: lambda m: m._remember(m._number(4)),
    pickle.BINGET: lambda m: m._recall(m._number(1)),
    pickle.LONG_BINGET: lambda m: m._recall(m._number(4)),
    pickle.BINPERSID: lambda m: m._push(m._storages.named(m._stack.pop())),
    pickle.GLOBAL: _Machine._global,
    pickle.REDUCE: _Machine._call,
    pickle.NEWOBJ: _Machine._call,
    pickle.BUILD: _Machine._build,
}  # fmt: skip

__all__ = ["Called", "ForbiddenError", "Named", "ProgramError", "Storages", "Stored", "follow"]
