"""Tensors that a method sees whole: read completely, computed as torch tensors, rounded once like all others.

Every tensor is computed by one thread with one BLAS thread, many tensors at once, so that no bit depends on how many
workers there are. Memory is taken for a whole tensor before it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import Any

import numpy as np

from weft.algorithms.program import Program, Stage, Statistic, Total
from weft.algorithms.whole import Whole
from weft.checkpoints.checkpoint import Array, TensorSpec
from weft.engine.binding import RANK, Values, arguments, asked_by, bind_map, bind_statistic
from weft.engine.ranking import BYTES, ranked, row_length
from weft.engine.reading import Buffers
from weft.engine.scope import Scope
from weft.engine.watch import has_nonfinite
from weft.engine.work import Key, Operand, Strip, Tile, Work
from weft.errors import InputError, MergeError
from weft.kernels.dtypes import DType
from weft.kernels.element import element

_NOT_FINITE = "{count} tensors hold values that are not finite, so no matrix can be taken apart: merged by element"


@dataclass
class Findings:
    """What a step says about one tensor.

    Attributes:
        tally: sentences, each once.
        figures: numbers by name.
    """

    tally: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        """Something is the case."""
        self.tally[text] = 1

    def measure(self, name: str, value: float) -> None:
        """A figure of this tensor."""
        self.figures[name] = float(value)


@element
def changed(base: float, tuned: float) -> float:
    """A model's task vector, after what happens to it before."""
    return tuned - base


@element
def rounded(tuned: tuple[float, ...]) -> float:
    """A number, to be stored in another format."""
    return tuned[0]


def _first(total: float, count: int) -> float:
    return total


_ROUNDED = Program(rounded)
_CHANGED = Stage(Statistic("", changed, Total(_first)), "", by_tensor=True)


class Allowance:
    """Memory that threads share: each takes what one tensor needs, all at once, and waits until there is so much.

    Args:
        limit: bytes; more than any one of them takes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._changed = Condition()

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """So many bytes, for as long as it lasts."""
        assert count <= self._limit, f"{count} bytes were not planned, only {self._limit}"
        with self._changed:
            self._changed.wait_for(lambda: count <= self._left)
            self._left -= count
        try:
            yield
        finally:
            with self._changed:
                self._left += count
                self._changed.notify_all()


def is_whole(work: Work) -> bool:
    """Whether a tensor must be seen whole."""
    return work.program.whole is not None or work.program.after is not None


def asked_at_last(program: Program) -> set[str]:
    """The names that the last pass over a tensor asks for."""
    own = asked_by_steps(program)
    if program.whole is None:
        return own | asked_by(program, None)
    return own | (asked_by(program, _CHANGED) if program.change else set())


def asked_by_steps(program: Program) -> set[str]:
    """The names that the steps ask for which see a tensor whole."""
    steps = [step for step in (program.whole, program.after) if step is not None]
    return {step.renamed.get(name, name) for step in steps for name in arguments(step.function)}


def moved(work: Work) -> int:
    """Bytes that are read and written for it in the last pass."""
    asked = asked_at_last(work.program)
    return work.spec.nbytes + sum(o.spec.nbytes for (name, _), o in work.operands.items() if name in asked)


def need(work: Work) -> int:
    """Bytes of memory that a tensor takes which is seen whole: as stored, as numbers, results, and to work with."""
    program, number = work.program, work.compute.itemsize
    asked = asked_at_last(program)
    specs = [operand.spec for (name, _), operand in work.operands.items() if name in asked]
    inputs = sum(spec.nbytes + spec.size * number for spec in specs)
    steps = [step for step in (program.whole, program.after) if step]
    working = max((step.working(work.spec.shape, work.models, number) for step in steps), default=0)
    changes = 2 * number * work.models * work.spec.size if program.change else 0
    if program.change and program.change.ranking:
        changes += number * work.spec.size + BYTES * row_length(work.spec.shape)
    return inputs + changes + 3 * work.spec.size * number + work.spec.nbytes + working


@contextmanager
def one_thread_each(works: Iterable[Work]) -> Iterator[None]:
    """Let torch compute every matrix with one thread: the order of its sums depends on their number."""
    if not any(map(is_whole, works)):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """See that torch can compute on a device.

    Raises:
        InputError: if it cannot.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used: {reason}", "choose cpu, or a device that is here"
        ) from None


def computed(scope: Scope, work: Work, values: Values, device: str) -> tuple[Array, Findings] | None:
    """Compute one tensor.

    Args:
        scope: what it is part of.
        work: the tensor.
        values: all numbers that its functions may ask for.
        device: where torch computes.

    Returns:
        The tensor in storage format, and what there is to say about it. None if it holds values that are not finite
        and that is an error, which is raised when the scope has been gone over.
    """
    import torch

    torch.set_num_threads(1)  # which a thread of ours does not take over from the one that began it
    inputs, found = _Inputs(scope, work), Findings()
    asked = asked_at_last(work.program)
    spoilt = [key for key in work.operands if key[0] in asked and not inputs.is_finite(key)]  # all are examined
    if spoilt and not scope.watch.vouches():
        return None
    if spoilt:
        found.tell(_NOT_FINITE)
        out = _by_element(scope, work, values, inputs, work.spec.dtype)
    else:
        out = _encoded(_result(scope, work, values, inputs, device, found), work)
    inputs.finish()
    return out, found


class _Inputs:
    """The inputs of one tensor, complete. Each is read when it is first asked for."""

    def __init__(self, scope: Scope, work: Work) -> None:
        self._scope = scope
        self._work = work
        self._tile = Tile(work, 0, work.spec.size)
        self._arrays: dict[Key, Array] = {}
        self._read = 0

    def __call__(self, key: Key) -> Array:
        """As stored, one-dimensional."""
        if key[0] == RANK:
            return ranked(self._tile, key[1] or 0, self, Buffers())
        if key not in self._arrays:
            operand = self._work.operands[key]
            size = operand.spec.size
            values = self._scope.reader.read(operand, 0, size, Buffers(), key, keep=False)
            self._scope.watch.look(Strip((self._tile,)), key, values)
            self._arrays[key] = values
            self._read += values.nbytes
        return self._arrays[key]

    def is_finite(self, key: Key) -> bool:
        """Whether all its values are."""
        return not has_nonfinite(self(key), self._work.operands[key].spec.dtype)

    def forget(self, key: Key) -> None:
        """It will not be asked for again."""
        self._arrays.pop(key, None)

    def finish(self) -> None:
        """The pass over the tensor is done."""
        self._scope.reader.looked_at(self._read)


def _result(scope: Scope, work: Work, values: Values, inputs: _Inputs, device: str, found: Findings) -> Any:
    """The merged tensor before it is rounded."""
    program = work.program
    changes: dict[Key, Any] = {}
    if program.whole is None:
        flat = _by_element(scope, work, values, inputs, work.compute)
        merged = _tensor(flat, work.compute, work.spec.shape, work, device)
    if program.change is not None:
        changes = dict(_changes(scope, work, values, inputs, device))
    tensors: dict[Key, Any] = {}
    asked = asked_by_steps(program) | ({"base"} if changes else set())
    for key in [key for key in work.operands if key[0] in asked and key not in changes]:
        spec = work.operands[key].spec
        tensors[key] = _tensor(inputs(key), spec.dtype, spec.shape, work, device)
        inputs.forget(key)
    if program.whole is not None:
        merged = _merged(program.whole, work, values, tensors, changes, found)
    if program.after is not None:
        added = {key: tensors["base", None] + change for key, change in changes.items()}
        merged = _applied(program.after, work, values, {**tensors, **added}, merged, found)
    return merged


def _merged(
    step: Whole, work: Work, values: Values, tensors: Mapping[Key, Any], changes: Mapping[Key, Any], found: Findings
) -> Any:
    """What the method makes of a tensor: where only differences to the base matter, of those as they are."""
    if not changes:
        return _applied(step, work, values, tensors, None, found)
    base = tensors["base", None]
    if not work.program.relative:
        return _applied(step, work, values, {**tensors, **{k: base + c for k, c in changes.items()}}, None, found)
    alone = {**tensors, **changes, ("base", None): base.new_zeros(base.shape)}
    return base + _applied(step, work, values, alone, None, found)


def _changes(scope: Scope, work: Work, values: Values, inputs: _Inputs, device: str) -> Iterator[tuple[Key, Any]]:
    """Each model's task vector after what happens to it before."""
    out = np.empty(work.spec.size, work.compute.storage)
    for key in [key for key in work.operands if key[0] == "tuned"]:
        asked = (work, _CHANGED, work.program.all_functions, values, scope.end_at_last(work), work.compute, key[1])
        bind_statistic(*asked)(inputs, 0, out)
        yield key, _tensor(out, work.compute, work.spec.shape, work, device)


def _applied(step: Whole, work: Work, values: Values, tensors: Mapping[Key, Any], merged: Any, found: Findings) -> Any:
    said = {"name": work.spec.name, "tell": found.tell, "measure": found.measure}
    given = {"merged": merged, **said, **values, **step.options}
    asked = {name: step.renamed.get(name, name) for name in arguments(step.function)}
    every = {name: given[as_] if as_ in given else _of(as_, work, tensors) for name, as_ in asked.items()}
    try:
        result = step.function(**every)
    except (RuntimeError, MemoryError) as error:  # of linear algebra, or of memory
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MergeError(f"tensor {work.spec.name!r} could not be computed: {reason}") from error
    assert tuple(result.shape) == work.spec.shape, (work.spec.name, tuple(result.shape))
    return result


def _of(name: str, work: Work, tensors: Mapping[Key, Any]) -> Any:
    """What an argument stands for: one tensor, or one for each model."""
    if name != "tuned" and not isinstance(work.program.auxiliary.get(name), tuple):
        return tensors.get((name, None))
    return tuple(tensors.get((name, i)) for i in range(work.models))


def _by_element(scope: Scope, work: Work, values: Values, inputs: _Inputs, output: DType) -> Array:
    """The tensor as the method's scalar function makes it."""
    out = np.empty(work.spec.size, output.storage)
    bind_map(work, values, output, scope.end_at_last(work))(inputs, 0, out)
    return out


def _tensor(values: Array, dtype: DType, shape: tuple[int, ...], work: Work, device: str) -> Any:
    """Stored numbers as a tensor of its own: what is aligned otherwise may be summed in another order."""
    import torch

    stored = torch.empty(shape, dtype=getattr(torch, dtype.name))
    bits = stored.view(-1).view(torch.int16) if dtype.itemsize == 2 else stored.view(-1)
    own = bits.numpy()
    own[:] = values.view(own.dtype)
    return stored.to(device=device, dtype=getattr(torch, work.compute.name))


def _encoded(result: Any, work: Work) -> Array:
    """A computed tensor in storage format, rounded as every other."""
    import torch

    numbers = result.detach().to(device="cpu", dtype=getattr(torch, work.compute.name)).contiguous().view(-1).numpy()
    operand = next(iter(work.operands.values()))
    computed = Operand(operand.checkpoint, TensorSpec(work.spec.name, work.compute, work.spec.shape))
    one = replace(work, program=_ROUNDED, operands={("tuned", 0): computed}, constants={}, models=1)
    out = np.empty(work.spec.size, work.spec.dtype.storage)
    bind_map(one, {}, work.spec.dtype, -1)(lambda key: numbers, 0, out)
    return out
