"""Machine code from Python functions, by numba. Only what was never compiled here before imports this.

What is made has one entry, which takes arrays as Python has them, finds their numbers, and calls the function.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call, no-any-return"

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from numba import carray, cfunc, config, njit, types
from numba.extending import intrinsic

from weft.kernels.native import HEAD, NEVER_CALLED

_KNOWN = {*NEVER_CALLED, "NRT_incref", "NRT_decref"}
"""What machine code may name of numba's: what is part of it, and what it never calls."""


def dispatcher(function: Callable[..., Any]) -> Any:
    """A function as numba compiles it for whatever types it is called with.

    Raises:
        RuntimeError: if numba was told not to compile.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, and Weft computes with what numba compiles; unset it")
    return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that LLVM puts into every loop that calls it."""
    return njit(forceinline=True, error_model="numpy", nogil=True)(function)


def type_of(compiled: Any) -> Any:
    """What numba takes a compiled function for where another calls it."""
    return types.Dispatcher(compiled)


def machine_code(compiled: Any, kinds: Sequence[str]) -> bytes | None:
    """The name of the entry, a new line, and an object file; None for a function that takes memory or may raise errors.

    An object that names what is not there when it is loaded is left half in order, and all its calls lead nowhere. So
    what it may name is listed.

    Args:
        compiled: the function, from `dispatcher`.
        kinds: of the arguments, as `native.kind_of` names them.
    """
    compiled.compile(tuple(map(_seen, kinds)))
    for signature in compiled.nopython_signatures:
        if not isinstance(signature.return_type, (types.Integer, types.Boolean, types.NoneType)):
            raise TypeError(f"{compiled.__name__} returns {signature.return_type}, and no whole number")
    entry = cfunc(types.int64(*map(_handed_over, kinds)), error_model="numpy")(_entry(compiled, kinds))
    code = entry._library._get_compiled_object()
    named = {name.decode() for name in re.findall(rb"\0_?((?:NRT|numba)_\w+|\.const\.picklebuf)", code)}
    return b"\n".join((entry._wrapper_name.encode(), code)) if named <= _KNOWN else None


def _seen(kind: str) -> Any:
    """The type that the function sees."""
    if " " not in kind:
        return _handed_over(kind)
    dtype, dimensions = kind.split()
    return types.Array(getattr(types, dtype), int(dimensions), "C")


def _handed_over(kind: str) -> Any:
    return {"int": types.int64, "float": types.float64}.get(kind, types.intp)


def _entry(compiled: Any, kinds: Sequence[str]) -> Callable[..., int]:
    """The function over the addresses of array objects; -1 and less says which of them cannot be used."""
    names = [f"a{k}" for k in range(len(kinds))]
    arrays = [(k, *kind.split()) for k, kind in enumerate(kinds) if " " in kind]
    given = dict(zip(names, names, strict=True))
    given |= {f"a{k}": f"array_{count}(a{k}, types.{dtype})" for k, dtype, count in arrays}
    lines = [f"def entry({', '.join(names)}):"]
    lines += [f"    if not in_order(a{k}, {count}):\n        return -{k} - 1" for k, _, count in arrays]
    lines += [f"    done = compiled({', '.join(given.values())})", "    return 0 if done is None else done", ""]
    space = {"compiled": compiled, "array_1": _vector, "array_2": _matrix, "in_order": _in_order, "types": types}
    exec("\n".join(lines), space)  # of our own words and numpy's names of types
    return space["entry"]


def bitcast(source, target, llvm_type):
    """A compiled function that takes the bits of one type for a number of another."""

    @intrinsic
    def cast(typing_context, value):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], llvm_type)

        return target(source), generate

    return cast


@intrinsic
def _at(typing_context, address, dtype):
    """What lies at an address, as numbers of a type."""
    kind = types.CPointer(dtype.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, dtype), generate


@njit(forceinline=True)
def _in_order(address, dimensions):
    """Whether an array has so many dimensions, and its numbers lie one after the other: the first of its flags."""
    same = _at(address + HEAD + 8, types.int32)[0] == dimensions
    return same and _at(address + HEAD + 48, types.int32)[0] & 1 == 1


@njit(forceinline=True)
def _vector(address, dtype):
    fields = _at(address + HEAD, types.int64)
    shape = _at(fields[2], types.int64)
    return carray(_at(fields[0], dtype), (shape[0],))


@njit(forceinline=True)
def _matrix(address, dtype):
    fields = _at(address + HEAD, types.int64)
    shape = _at(fields[2], types.int64)
    return carray(_at(fields[0], dtype), (shape[0], shape[1]))
