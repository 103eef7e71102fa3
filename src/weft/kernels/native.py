"""Compiled functions that are called without the compiler, once their machine code is on disk.

To import numba and to let it load what it compiled before takes longer than a small merge. So what it made is kept as
the object file that LLVM wrote, and is loaded and called by this module, which needs nothing of numba. Only what was
never compiled on this processor imports it (`making`).

A call hands over the arrays themselves. The machine code looks up where their numbers lie and how many there are, in
the fields that numpy's C interface declares; whether this interpreter has them there is tried once.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from threading import RLock
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

from weft.kernels.cache import digest, keep_code, kept_code

Array = np.ndarray[Any, Any]
HEAD = object.__basicsize__
"""Bytes before the fields of an array object."""

_LOADING = RLock()
"""Threads that ask for one function at once shall not make it twice."""


class Native:
    """A function over arrays and numbers, compiled for the types that it is called with.

    Arguments are arrays in C order, whole numbers (64 bits, which wrap around) and floats (float64); what is written to
    must be writable. It returns a whole number or nothing, and holds no lock while it runs. One that takes memory of
    its own or may raise an error works, but is compiled anew in every process.

    Args:
        name: what its machine code is called in the cache.
        text: everything that the machine code depends on but the compiler, the processor and the types.
        make: gives the Python function to compile; asked once, and only if there is no machine code.
    """

    def __init__(self, name: str, text: str, make: Callable[[], Callable[..., Any]]) -> None:
        self.name = name
        self._text = text
        self._make = make
        self._entries: dict[tuple[object, ...], Callable[..., int]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run it; a whole number.

        Raises:
            TypeError: if an array is not in C order, or has other dimensions than with these types before.
        """
        kinds = tuple([a.dtype if isinstance(a, np.ndarray) else type(a) for a in arguments])
        entry = self._entries.get(kinds)
        if entry is None:
            entry = self.prepare(*arguments)
        done = entry(*arguments)
        if -len(kinds) <= done < 0:
            wrong = arguments[-done - 1]
            told = f"argument {-done} has shape {wrong.shape} and strides {wrong.strides}"
            raise TypeError(f"{self.name}: {told}; it takes arrays in C order, always of as many dimensions")
        return done

    def prepare(self, *arguments: Any) -> Callable[..., int]:
        """Load the machine code for arguments of these types, or make it."""
        with _LOADING:
            kinds = tuple(a.dtype if isinstance(a, np.ndarray) else type(a) for a in arguments)
            if kinds not in self._entries:
                self._entries[kinds] = self._entry(tuple(map(kind_of, arguments)))
            return self._entries[kinds]

    @cached_property
    def dispatcher(self) -> Any:
        """The function as numba has it, which compiles anew in every process."""
        return import_module("weft.kernels.making").dispatcher(self._make())

    @property
    def _numba_type_(self) -> Any:
        """What numba takes this for where another compiled function calls it."""
        return import_module("weft.kernels.making").type_of(self.dispatcher)

    def _entry(self, kinds: Sequence[str]) -> Callable[..., int]:
        code = self._machine_code(kinds) if fields_are_where_numpy_declares_them() else None
        if code is None:
            return _compiled_anew(self.dispatcher, kinds)
        types = [_C_TYPES.get(kind, ctypes.py_object) for kind in kinds]
        return ctypes.CFUNCTYPE(ctypes.c_int64, *types)(_loaded(code))

    def _machine_code(self, kinds: Sequence[str]) -> bytes | None:
        name = f"{self.name}.{digest(' '.join((self._text, target(), *kinds)))}.o"
        code = kept_code(name)
        if code is None:
            code = import_module("weft.kernels.making").machine_code(self.dispatcher, kinds)
            if code is not None and not _changed_since():
                keep_code(name, code)
        return code


def native(function: Callable[..., Any]) -> Native:
    """Mark a function to be compiled. It may call others of its own module that are marked, and no others."""
    if function.__closure__:
        raise TypeError(f"{function.__qualname__} depends on variables around it, which its text does not tell")
    module, file = function.__module__.rpartition(".")[2], Path(function.__code__.co_filename)
    return Native(f"{module}.{function.__qualname__}", _text_of(file), lambda: function)


def _compiled_anew(dispatcher: Any, kinds: Sequence[str]) -> Callable[..., int]:
    """The function as numba calls it, with the same promises."""
    dimensions = {k: int(kind.split()[1]) for k, kind in enumerate(kinds) if " " in kind}

    def call(*arguments: Any) -> int:
        for k, count in dimensions.items():
            if arguments[k].ndim != count or not arguments[k].flags.c_contiguous:
                return -k - 1
        return int(dispatcher(*(_in_64_bits(a) if isinstance(a, int) else a for a in arguments)) or 0)

    return call


def _in_64_bits(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Inline:
    """A function that becomes part of the compiled functions that call it; in Python, itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        """As Python computes it."""
        return self.function(*arguments)

    @cached_property
    def inlined(self) -> Any:
        """The function as numba has it."""
        return import_module("weft.kernels.making").inlined(self.function)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes this for where another compiled function calls it."""
        return import_module("weft.kernels.making").type_of(self.inlined)


def kind_of(argument: object) -> str:
    """In what way an argument is handed over.

    Example:
        >>> kind_of(np.zeros((2, 3), np.uint16)), kind_of(7), kind_of(0.5)
        ('uint16 2', 'int', 'float')
    """
    if not isinstance(argument, np.ndarray):
        if type(argument) not in (int, float):
            raise TypeError(f"{argument!r} is neither an array nor a number of Python's")
        return type(argument).__name__
    if argument.dtype.name not in _NUMBERS or not argument.dtype.isnative or argument.ndim not in (1, 2):
        raise TypeError(f"an array of {argument.dtype!r} with {argument.ndim} dimensions cannot be handed over")
    return f"{argument.dtype.name} {argument.ndim}"


_NUMBERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float32", "float64"}
_C_TYPES: dict[str, Any] = {"int": ctypes.c_int64, "float": ctypes.c_double}


@cache
def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


_HERE = Path(__file__).parent
_BEGAN = time.time()


def _changed_since() -> bool:
    """Whether the installation was changed while this process ran: what it compiles may be of the old text."""
    return any(file.stat().st_ctime > _BEGAN for file in _HERE.parent.rglob("*.py"))


@cache
def target() -> str:
    """What machine code depends on beside the text: who compiles it, for which processor, and how it is called."""
    makers = f"numba {version('numba')} llvmlite {llvmlite.__version__}"
    ours = digest(_text_of(_HERE / "making.py") + _text_of(_HERE / "native.py"))
    processor = (binding.get_process_triple(), binding.get_host_cpu_name(), _features())
    return " ".join((makers, ours, str(HEAD), *processor, *_settings()))


def _settings() -> Iterator[str]:
    """What a person told numba, in the environment or in the file that it looks for, as far as code depends on it."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("NUMBA_") and "THREAD" not in name and name != "NUMBA_CACHE_DIR":
            yield f"{name}={value}"
    file = Path(".numba_config.yaml")
    if file.is_file():
        yield file.read_text(encoding="utf-8", errors="replace")


def _features() -> str:
    try:
        return str(binding.get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM does not know those of every processor
        return ""


_ENGINES: list[Any] = []
"""What holds the machine code; one for each function, since their inner names may be the same."""


def _loaded(code: bytes) -> int:
    """Where a function begins, once its machine code is in memory."""
    symbol, _, compiled = code.partition(b"\n")
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
    engine.add_object_file(binding.object_file.ObjectFileRef.from_data(compiled))
    engine.finalize_object()
    _ENGINES.append(engine)
    return int(engine.get_function_address(symbol.decode()))


def _machine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    with _numba_waits():
        for name in NEVER_CALLED:
            if binding.address_of_symbol(name) is None:  # numba, should it be loaded later, puts its own in their place
                binding.add_symbol(name, ctypes.cast(ctypes.pythonapi.Py_FatalError, ctypes.c_void_p).value)
    return binding.Target.from_default_triple().create_target_machine()


def _numba_waits() -> AbstractContextManager[Any]:
    """While held, no other thread begins to compile, which is when numba names its own functions."""
    if "numba" not in sys.modules:
        return nullcontext()
    return import_module("numba.core.compiler_lock").global_compiler_lock  # type: ignore[no-any-return]


NEVER_CALLED = (
    "numba_gil_ensure", "numba_gil_release", "numba_unpickle", "numba_do_raise", "numba_runtime_build_excinfo_struct",
    "NRT_Free", "NRT_MemInfo_call_dtor",
)  # fmt: skip
"""What machine code would call to report an error or to give memory back. Ours never does, but has the names in it."""


@cache
def fields_are_where_numpy_declares_them() -> bool:
    """Whether arrays are laid out in this interpreter as compiled functions read them."""
    tried = np.zeros((3, 5), np.uint16)
    return all(_is_laid_out(array) for array in (tried, tried[:, ::2]))


def _is_laid_out(array: Array) -> bool:
    data, count, shape, _, _, kind, flags = (ctypes.c_int64 * 7).from_address(id(array) + HEAD)
    if data != array.ctypes.data or kind != id(array.dtype) or flags & 1 != array.flags.c_contiguous:
        return False
    return count & 0xFFFFFFFF == array.ndim and tuple((ctypes.c_int64 * array.ndim).from_address(shape)) == array.shape
