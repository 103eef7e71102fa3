"""Everything that must hold of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import weft
from tests.long.cases import Array, Case, Knobs, State
from tests.long.jobs import Copy, Job, plan
from tests.long.judging import judged, judged_copy, scopes
from tests.long.saving import read_safetensors, recipe_parts
from tests.long.verdicts import Verdict


class CheckError(AssertionError):
    """Something that must hold does not."""


@dataclass(frozen=True)
class Outcome:
    """How much was compared."""

    elements: int
    forked: int
    alone: int


def checked(case: Case, folder: Path) -> Outcome:
    """Merge and judge.

    Raises:
        CheckError: saying what does not hold.
        NoReferenceError: if a method has no reference.
    """
    parts = recipe_parts(case, folder)
    outputs = [_merged(case, parts, folder / f"out-{k}", knobs) for k, knobs in enumerate(case.knobs)]
    written = _tensors(outputs[0])
    items = plan(case)
    outcome = _compared(items, written)
    for knobs, output in zip(case.knobs[1:], outputs[1:], strict=True):
        _same_files(outputs[0], output, knobs)
    _same_in_memory(case, parts, written)
    _verified(outputs[0], items, written)
    return outcome


def _merged(case: Case, parts: Mapping[str, Any], target: Path, knobs: Knobs) -> Path:
    """Merge on disk; where the memory is too small, Weft says so and it is doubled."""
    place = target.with_suffix(".safetensors") if case.as_file else target
    memory = knobs.memory
    while True:
        try:
            weft.merge_to(parts, place, memory=memory, workers=knobs.workers)
            return place
        except weft.InputError as error:
            if "is too small" not in str(error) and "of memory to be seen whole" not in str(error):
                raise
            memory *= 2


def _tensors(output: Path) -> State:
    files = [output] if output.is_file() else sorted(output.glob("*.safetensors"))
    tensors: State = {}
    for file in files:
        found = read_safetensors(file)
        if again := tensors.keys() & found.keys():
            raise CheckError(f"{file}: holds tensors that another file holds too: {sorted(again)}")
        tensors |= found
    return tensors


def _compared(items: list[Copy | Job], written: State) -> Outcome:
    expected = {name: item for item in items for name in item.names}
    if expected.keys() != written.keys():
        raise CheckError(f"tensors differ: expected {sorted(expected)}, written {sorted(written)}")
    for name, item in expected.items():
        _check_kind(name, item, written[name])
        if written[name].tobytes() != written[item.names[0]].tobytes():
            raise CheckError(f"tensors {name!r} and {item.names[0]!r} are one tensor, but differ in the output")
    verdict = Verdict(())
    for item in items:
        if isinstance(item, Copy):
            verdict += judged_copy(item, item.names[0], written[item.names[0]])
    for scope in scopes([item for item in items if isinstance(item, Job)]):
        verdict += judged(scope, {job: written[job.names[0]] for job in scope.jobs})
    if verdict.faults:
        raise CheckError("\n".join(map(str, verdict.faults)))
    return Outcome(verdict.elements, verdict.forked, verdict.alone)


def _check_kind(name: str, item: Copy | Job, tensor: Array) -> None:
    shape = item.values.shape if isinstance(item, Copy) else item.shape
    if tensor.dtype.name != item.dtype or tensor.shape != shape:
        found = f"{tensor.dtype.name} {list(tensor.shape)}"
        raise CheckError(f"tensor {name!r} is {found}, expected {item.dtype} {list(shape)}")


def _same_files(one: Path, other: Path, knobs: Knobs) -> None:
    """The same bytes in every file of tensors, and in the index."""
    names = [None] if one.is_file() else sorted(p.name for p in one.iterdir() if ".safetensors" in p.name)
    theirs = [None] if other.is_file() else sorted(p.name for p in other.iterdir() if ".safetensors" in p.name)
    if names != theirs:
        raise CheckError(f"with {knobs} the files are {theirs}, not {names}")
    for name in names:
        a, b = (one / name, other / name) if name else (one, other)
        if a.read_bytes() != b.read_bytes():
            raise CheckError(f"with {knobs} the bytes of {b} differ from those of {a}: {_first_difference(a, b)}")


def _first_difference(one: Path, other: Path) -> str:
    if one.suffix != ".safetensors":
        return "text"
    ours, theirs = read_safetensors(one), read_safetensors(other)
    for name, tensor in ours.items():
        if tensor.tobytes() != theirs[name].tobytes():
            at = int(np.flatnonzero(np.ravel(tensor) != np.ravel(theirs[name]))[0])
            return f"tensor {name!r}, element {at}: {np.ravel(tensor)[at]} and {np.ravel(theirs[name])[at]}"
    return "the headers"


def _same_in_memory(case: Case, parts: Mapping[str, Any], written: State) -> None:
    """`weft.merge` gives the numbers that lie on the disk."""
    merged = weft.merge(
        parts["models"],
        base=parts.get("base"),
        method=case.method,
        rules=parts["rules"],
        dtype=case.output.get("dtype"),
        on_missing=case.on_missing,
        workers=2,
        before=parts.get("before"),
        after=parts.get("after"),
        **parts["parameters"],
    )
    if merged.keys() != written.keys():
        raise CheckError(f"in memory the tensors are {sorted(merged)}, on disk {sorted(written)}")
    for name, tensor in merged.items():
        ours = _bits(tensor)
        if ours != written[name].tobytes():
            raise CheckError(f"tensor {name!r} in memory differs from that on disk: {tensor}, {written[name]}")


def _bits(tensor: Any) -> bytes:
    if isinstance(tensor, (np.ndarray, np.generic)):
        return tensor.tobytes()
    import torch

    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _verified(output: Path, items: list[Copy | Job], written: State) -> None:
    """No error, but for numbers that are as strange as the inputs asked for: huge, or zero for long stretches.

    That they are what they should be was seen before.
    """
    strange = {name for name, t in written.items() if _is_strange(t)}
    errors = [e for e in weft.verify(output).errors if e.check != "numbers" or not any(n in e.what for n in strange)]
    if errors:
        raise CheckError("weft verify: " + "; ".join(f"{error.check}: {error.what}" for error in errors))


def _is_strange(tensor: Array) -> bool:
    numbers = tensor.astype(np.float64)
    return bool(tensor.size) and (bool(np.abs(numbers).max() > 1e15) or float(np.mean(numbers == 0)) > 0.1)
