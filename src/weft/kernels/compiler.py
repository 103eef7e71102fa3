"""One machine-code loop per question: decode every input, call the scalar function, round once, encode.

The generated module holds everything the loop depends on and is named by the hash of its own text, so that a change
anywhere gives a new file and a stale one can never be used. It is readable: open it in the cache folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from weft.kernels.cache import digest, keep
from weft.kernels.dtypes import FLOAT64, DType
from weft.kernels.element import ElementError, Scalar
from weft.kernels.native import Native
from weft.kernels.specialise import constants, dependencies, elementary_functions, specialised

Kernel = Callable[..., int]
"""`kernel(out, start, end, values, *inputs) -> count`; see `compiled`."""


@dataclass(frozen=True)
class Input:
    """One array that a kernel reads.

    Attributes:
        name: the argument of the scalar function that it feeds.
        model: its position in that argument when it is a tuple with one value per model, else None.
        dtype: how it is stored; None for a constant, for which nothing is read.
        constant: its value.
    """

    name: str
    model: int | None
    dtype: DType | None
    constant: float = 1.0


@dataclass(frozen=True)
class Loop:
    """Everything that decides what machine code is made.

    Attributes:
        element: the scalar function.
        functions: the functions that it, or `note`, receives as arguments, by argument name.
        inputs: the arrays, in the order in which they are passed; those that are constant are not passed.
        values: the numbers, in the order in which they lie in the `values` array: name, and how many (0: a scalar).
        models: how many models there are.
        compute: the precision of the arithmetic.
        output: how the result is stored.
        note: a scalar function that says of an element whether it is worth reporting; such elements are counted.
        prefix: what the names of numbers, functions and inputs that belong to `element` begin with.
        change: a scalar function that changes each model's difference to the base before `element` sees it; the names
            that belong to it begin with `CHANGE`.
        relative: `element` sees the changed differences beside a base of 0, and not their sums with the base.
        adds_base: the base is added to what `element` gives.
    """

    element: Scalar
    functions: tuple[tuple[str, Scalar], ...]
    inputs: tuple[Input, ...]
    values: tuple[tuple[str, int], ...]
    models: int
    compute: DType
    output: DType
    note: Scalar | None = None
    prefix: str = ""
    change: Scalar | None = None
    relative: bool = False
    adds_base: bool = False

    @property
    def draws(self) -> bool:
        """Whether it asks for random numbers: what happens to each model, or a statistic of that, may."""
        return any("draw" in inspect.signature(f).parameters for f in (self.element, self.change) if f)


CHANGE = "before_"
"""What the names begin with that belong to a change."""

COMMON = frozenset({"base", "tuned", "draw", "rank", "length", "index", "last"})
"""What any scalar function may ask for, whosever it is."""


def compiled(loop: Loop, *, joined: bool = False) -> Kernel:
    """Machine code for a loop, from the cache folder when it was made before.

    Args:
        loop: what to compile.
        joined: whether it goes over several tensors, each a scope of its own with its own numbers.

    Returns:
        `kernel(out, start, end, values, *inputs) -> count`. `out` and the inputs are one-dimensional arrays of
        storage type and equal length, the elements `start`, `start + 1`, ... of a tensor; `end` is the index of the
        last element of the scope, or -1 when it is in another tensor; `values` holds the numbers in the precision of
        the loop. A loop that draws takes `keys` before the inputs: uint32, two for each model. The kernel holds no
        lock while it runs.

        If joined, `kernel(out, stops, values, *inputs) -> count`: the arrays hold whole tensors, one after the other;
        `stops` says for each where it ends, and `values` has a row for each.
    """
    with _COMPILING:
        return _compiled(loop, joined)


_COMPILING = Lock()
"""Threads that ask for one loop at once shall not make it twice."""


@cache
def _compiled(loop: Loop, joined: bool = False) -> Kernel:
    source = source_of(loop, joined=joined)
    name = f"k{digest(source)}"
    readable = keep(f"{name}.py", source.encode())
    native = Native(name, source, partial(_made, source, readable, joined))
    native.prepare(*_of_no_elements(loop, joined))
    if not _decoded_first(loop):
        return native
    return lambda *arguments: native(*arguments, _scratch(loop))


def _made(source: str, path: Path, joined: bool) -> Callable[..., Any]:
    """The function to compile: of our own text, not what lies in the cache folder."""
    space: dict[str, Any] = {"__name__": f"weft_kernel_{path.stem}"}
    exec(compile(source, str(path), "exec"), space)
    function: Callable[..., Any] = space["joined" if joined else "kernel"]
    return function


def _of_no_elements(loop: Loop, joined: bool) -> list[Any]:
    """Arguments of the types that the kernel will be called with."""
    arrays = [np.empty(0, given.dtype.storage) for given in loop.inputs if given.dtype]
    count = sum(max(count, 1) for _, count in loop.values)
    keys = [np.zeros(2 * loop.models, np.uint32)] if loop.draws else []
    scratch = [_scratch(loop)] if _decoded_first(loop) else []
    out = np.empty(0, loop.output.storage)
    if joined:
        return [out, np.empty(0, np.int64), np.empty((0, count), loop.compute.storage), *arrays, *scratch]
    return [out, 0, -1, np.ones(count, loop.compute.storage), *keys, *arrays, *scratch]


def _scratch(loop: Loop) -> np.ndarray[Any, Any]:
    return np.empty((len(_decoded_first(loop)), _STRETCH), loop.compute.storage)


def source_of(loop: Loop, *, joined: bool = False) -> str:
    """The generated module as text.

    Example:
        >>> from weft.algorithms.linear import weighted_average
        >>> from weft.kernels.dtypes import BFLOAT16, FLOAT32
        >>> inputs = tuple(Input("tuned", i, BFLOAT16) for i in range(2))
        >>> loop = Loop(weighted_average, (), inputs, (("weight", 2), ("mass", 0)), 2, FLOAT32, BFLOAT16)
        >>> "encode_bfloat16(weighted_average(" in source_of(loop)
        True
    """
    over = _joined(loop) if joined else ()
    return "\n".join((*_preamble(loop), *_functions(loop), *_kernel(loop), *over, ""))


def _preamble(loop: Loop) -> Iterator[str]:
    drawing = f", draws {_digest_of('draws')}" if loop.draws else ""
    yield f"# Generated by weft; codecs {_digest_of('codecs')}{drawing}."
    yield "import numpy as np"
    yield "from numba import njit"
    yield "from weft.kernels.codecs import *"
    if loop.draws:
        yield "from weft.kernels.draws import uniform"
    yield f"real = np.{loop.compute.name}"
    yield 'inline = njit(forceinline=True, error_model="numpy", nogil=True)'
    yield 'compiled = njit(error_model="numpy", nogil=True)'


def _functions(loop: Loop) -> Iterator[str]:
    own = [function for function in (loop.note, loop.change) if function]
    roots = [loop.element, *(function for _, function in loop.functions), *own]
    wanted: dict[Scalar, None] = {}
    numbers: dict[str, float] = {}
    for root in roots:
        wanted.update(dict.fromkeys([*dependencies(root), root]))
    for function in wanted:
        for name, value in constants(function).items():
            if numbers.setdefault(name, value) != value:
                raise ElementError(
                    f"{loop.element.__name__}: two constants are called {name!r}; rename one", loop.element
                )
    names = [function.__name__ for function in wanted]
    if len(set(names)) < len(names):
        text = f"{loop.element.__name__}: two of its functions have one name: {sorted(names)}; rename one"
        raise ElementError(text, loop.element)
    yield from (f"{name} = real({value!r})" for name, value in numbers.items())
    yield from _exponentials(loop, wanted)
    for function in wanted:
        yield f"\n@inline\n{specialised(function, loop.models)}"


def _exponentials(loop: Loop, functions: Iterable[Scalar]) -> Iterator[str]:
    """The exponential functions that these call, in the loop's precision."""
    called = {name: known for function in functions for name, known in elementary_functions(function).items()}
    for name, known in called.items():
        version = _digest_of("exponentials")
        yield f"from weft.kernels.exponentials import {known}_{loop.compute.name} as {name}  # {version}"


def _kernel(loop: Loop) -> Iterator[str]:
    arrays = [f"input_{k}" for k, given in enumerate(loop.inputs) if given.dtype]
    yield "\n"
    late = _decoded_first(loop)
    own, scratch = ("_", ["decoded_"]) if late else ("", [])
    keys = ["keys"] if loop.draws else []
    yield f"def kernel({', '.join([f'out{own}', f'start{own}', 'end', 'values', *keys, *arrays, *scratch])}):"
    yield from (f"    {line}" for line in _unpacked(loop))
    yield "    noted_ = 0"
    if not late:
        yield from _elements(loop, "    ")
    else:
        yield f"    for from_ in range(0, len(out_), {_STRETCH}):"
        yield f"        out = out_[from_ : from_ + {_STRETCH}]"
        yield "        start = start_ + from_"
        for k, given in ((k, given) for k, given in enumerate(loop.inputs) if given.dtype):
            yield f"        part_{k} = input_{k}[from_ : from_ + {_STRETCH}]"
            if k in late:
                yield f"        for at_ in range(len(part_{k})):"
                yield f"            decoded_[{late.index(k)}, at_] = {_decoded(k, given, f'part_{k}')}"
        yield from _elements(loop, "        ")
    yield "    return noted_"


def _joined(loop: Loop) -> Iterator[str]:
    """The loop over tensors that lie one after the other."""
    arrays = [f"input_{k}" for k, given in enumerate(loop.inputs) if given.dtype]
    scratch = ["decoded_"] if _decoded_first(loop) else []
    parts = ", ".join([*(f"{array}[first_:last_]" for array in arrays), *scratch])
    yield "\n\none = compiled(kernel)"
    yield f"\n\ndef joined({', '.join(['out', 'stops', 'values', *arrays, *scratch])}):"
    yield "    noted_ = first_ = 0"
    yield "    for k_ in range(len(stops)):"
    yield "        last_ = stops[k_]"
    yield f"        noted_ += one(out[first_:last_], 0, last_ - first_ - 1, values[k_], {parts})"
    yield "        first_ = last_"
    yield "    return noted_"


def _elements(loop: Loop, indent: str) -> Iterator[str]:
    """The loop over elements itself."""
    yield f"{indent}for at_ in range(len(out)):"
    yield from (f"{indent}    {line}" for line in _changed(loop))
    added = "base_ + " if loop.adds_base else ""
    yield f"{indent}    out[at_] = {_encoder(loop)}({added}{_call(loop, loop.element)})"
    if loop.note:
        yield f"{indent}    noted_ += {_call(loop, loop.note)}"


def _changed(loop: Loop) -> Iterator[str]:
    """What the models' values become before the scalar function sees them."""
    if loop.change is None:
        return
    yield f"base_ = {_read_one(loop, 'base', None)}"
    for slot in range(loop.models):
        asked = inspect.signature(loop.change).parameters
        call = f"{loop.change.__name__}({', '.join(_of_model(loop, name, slot) for name in asked)})"
        yield f"changed_{slot}_ = {call if loop.relative else f'base_ + {call}'}"


def _of_model(loop: Loop, name: str, slot: int) -> str:
    """An argument of the change of one model's value."""
    if name == "base":
        return "base_"
    if name == "index":
        return "start + at_"
    if name == "draw":
        return _drawn(slot)
    known = _known(loop, CHANGE, name)
    if any(given.name == known for given in loop.inputs):
        return _read_one(loop, known, slot)
    if known in dict(loop.functions):
        return dict(loop.functions)[known].__name__
    if known in dict(loop.values):
        return f"{known}[{slot}]" if dict(loop.values)[known] else known
    assert loop.change is not None
    raise ElementError(f"{loop.change.__name__} asks for {name!r}, which nothing provides", loop.change)


def _drawn(slot: int) -> str:
    """The random number of one model."""
    return f"real(uniform(keys[{2 * slot}], keys[{2 * slot + 1}], start + at_))"


def _known(loop: Loop, prefix: str, name: str) -> str:
    """The name under which an argument is given: with the prefix, unless it is nobody's own."""
    given = {*(i.name for i in loop.inputs), *(n for n, _ in loop.functions), *(n for n, _ in loop.values)}
    return name if prefix + name not in given and name in COMMON else prefix + name


def _read_one(loop: Loop, name: str, slot: int | None) -> str:
    """One element of what is given under a name: for one model if there is one for each."""
    found = [(k, given) for k, given in enumerate(loop.inputs) if given.name == name and given.model in (slot, None)]
    if not found:
        text = f"{loop.element.__name__}: nothing provides {name!r}, which is needed to change task vectors"
        raise ElementError(text, loop.change or loop.element)
    return _read(loop, *found[0])


_DIRECT = 48
"""How many arrays a loop reads itself. With some ten more LLVM no longer vectorises it."""

_BESIDE = 40
"""If there are more, how many it reads itself nevertheless; the others are decoded first."""

_STRETCH = 256
"""Elements that are decoded at a time, so that what is decoded stays in the core's first cache."""


def _decoded_first(loop: Loop) -> list[int]:
    """Positions of the inputs that are decoded into scratch before the loop over elements reads them."""
    arrays = [k for k, given in enumerate(loop.inputs) if given.dtype]
    return arrays[_BESIDE:] if len(arrays) > _DIRECT else []


def _unpacked(loop: Loop) -> Iterator[str]:
    position = 0
    for name, count in loop.values:
        if count == 0:
            yield f"{name} = values[{position}]"
        else:
            yield f"{name} = ({' '.join(f'values[{position + k}],' for k in range(count))})"
        position += max(count, 1)


def _call(loop: Loop, function: Scalar) -> str:
    arguments = ", ".join(_argument(loop, function, name) for name in inspect.signature(function).parameters)
    return f"{function.__name__}({arguments})"


def _argument(loop: Loop, function: Scalar, name: str) -> str:
    if loop.change and name == "base":
        return "real(0.0)" if loop.relative else "base_"
    if loop.change and name == "tuned":
        changed = [f"changed_{slot}_" for slot in range(loop.models)]
        together = any(given.name == "tuned" and given.model is not None for given in loop.inputs)
        return f"({' '.join(f'{one},' for one in changed)})" if together else changed[0]
    known = _known(loop, loop.prefix, name)
    arrays = [(k, given) for k, given in enumerate(loop.inputs) if given.name == known]
    if len(arrays) == 1 and arrays[0][1].model is None:
        return _read(loop, *arrays[0])
    if arrays:
        return f"({' '.join(f'{_read(loop, k, given)},' for k, given in arrays)})"
    if name == "index":
        return "start + at_"
    if name == "draw" and loop.models == 1:
        return _drawn(0)
    if name == "last":
        return "start + at_ == end"
    if known in dict(loop.functions):
        return dict(loop.functions)[known].__name__
    if known in dict(loop.values):
        return known
    raise ElementError(f"{function.__name__} asks for {name!r}, which nothing provides", function)


def _read(loop: Loop, k: int, given: Input) -> str:
    """One element of an input, decoded."""
    late = _decoded_first(loop)
    if k in late:
        return f"decoded_[{late.index(k)}, at_]"
    return _decoded(k, given, f"part_{k}" if late else f"input_{k}")


def _decoded(k: int, given: Input, array: str) -> str:
    return f"real({given.constant!r})" if given.dtype is None else f"real(decode_{given.dtype.name}({array}[at_]))"


def _encoder(loop: Loop) -> str:
    twice = loop.compute == FLOAT64 and loop.output.name in ("float16", "bfloat16")
    return f"encode_{loop.output.name}_once" if twice else f"encode_{loop.output.name}"


@cache
def _digest_of(module: str) -> str:
    """Of the text of a module beside this one, which is compiled with every loop and not imported before."""
    return digest(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))


def packed(loop: Loop, values: dict[str, float | tuple[float, ...]]) -> np.ndarray[Any, Any]:
    """The `values` array of a kernel, in the order and the precision of its loop."""
    numbers: list[float] = []
    for name, count in loop.values:
        value = values[name]
        numbers.extend(value if isinstance(value, tuple) else [value] * max(count, 1))
    return np.array(numbers, dtype=loop.compute.storage)
