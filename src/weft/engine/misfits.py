"""What keeps one tensor from being merged, in words: missing, of another shape, of numbers that cannot be averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from weft.algorithms.program import Program, Statistic
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.comparing import same_numbers
from weft.engine.work import Operand
from weft.errors import Problem, nearest
from weft.kernels.dtypes import Kind

Found = Mapping[str, Operand]
"""The inputs that have a tensor, by what to call them, and their tensor."""


class TensorError(Exception):
    """A tensor cannot be planned.

    Args:
        what: why, naming the tensor.
        remedy: what the reader can do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.problem = Problem(what, remedy)


class MissingError(TensorError):
    """An input lacks a tensor."""


def missing(name: str, lacking: Mapping[str, Checkpoint], found: Found, hint: bool) -> MissingError:
    """An error about a tensor that some inputs lack.

    Args:
        name: the tensor.
        lacking: those inputs.
        found: those that have it.
        hint: whether to look for the nearest name, which takes time.
    """
    near = ""
    if hint:
        shared = {known for operand in found.values() for known in operand.checkpoint.tensors}
        near = nearest(name, next(iter(lacking.values())).tensors.keys() - shared)
    uses = [f"`use: {label.removeprefix('model ').strip(chr(39))}`" for label in found]
    remedy = f"add a rule for it: {', '.join(uses[:2])} or `use: drop`; or choose a policy with `on_missing:`"
    placed = ", ".join(label if label == c.label else f"{label} ({c.label})" for label, c in lacking.items())
    what = f"tensor {name!r} is in {', '.join(found)} but missing from {placed}"
    return MissingError(what, f"{remedy}; {near}" if near else remedy)


def check_alike(name: str, found: Found) -> None:
    """See that a tensor has one shape and one kind of number in all inputs.

    Raises:
        TensorError: naming two that differ.
    """
    first, *others = found.values()
    shape, kind = first.spec.shape, first.spec.dtype.kind
    if kind is Kind.FLOAT and all(o.spec.shape == shape and o.spec.dtype.kind is kind for o in others):
        return
    some = next(iter(found.items()))
    for other in found.items():
        _check_pair(name, some, other)


def _check_pair(name: str, first: tuple[str, Operand], second: tuple[str, Operand]) -> None:
    (label_a, a), (label_b, b) = first, second
    files = f"{a.file} and {b.file}"
    if a.spec.shape != b.spec.shape:
        raise TensorError(
            f"tensor {name!r} has shape {list(a.spec.shape)} in {label_a} "
            f"but {list(b.spec.shape)} in {label_b} ({files})",
            "merge models of one architecture, or add a rule with `use:` for this tensor",
        )
    if a.spec.dtype.kind is Kind.OPAQUE or b.spec.dtype.kind is Kind.OPAQUE:
        label, opaque = (label_a, a) if a.spec.dtype.kind is Kind.OPAQUE else (label_b, b)
        raise TensorError(
            f"tensor {name!r} is {opaque.spec.dtype} in {label} ({opaque.file}); its codes cannot be averaged",
            "convert the model to bfloat16 first, or add a rule with `use:`",
        )
    both_exact = a.spec.dtype.kind is b.spec.dtype.kind is Kind.EXACT
    if a.spec.dtype.kind is not b.spec.dtype.kind or (both_exact and a.spec.dtype != b.spec.dtype):
        raise TensorError(
            f"tensor {name!r} is {a.spec.dtype} in {label_a} but {b.spec.dtype} in {label_b} ({files})",
            "save both in one format, or add a rule with `use:`",
        )


def check_equal(name: str, found: Found) -> None:
    """See that a tensor that passes through, since it holds no floats, is the same in all inputs.

    Raises:
        TensorError: naming two that differ.
    """
    first_label, first = next(iter(found.items()))
    for label, operand in found.items():
        if not same_numbers(first.checkpoint, first.spec.name, operand.checkpoint, operand.spec.name):
            raise TensorError(
                f"tensor {name!r} ({first.spec}) is not a float and differs between {first_label} "
                f"({first.file}) and {label} ({operand.file})",
                "integers cannot be merged: add a rule with `use: base` or `use: <model>`",
            )


def check_beside(name: str, spec: TensorSpec, operand: Operand | None, checkpoint: Checkpoint, of: str) -> Operand:
    """See that what stands beside the models' tensors is there and has their shape.

    Args:
        name: the tensor.
        spec: the models' own.
        operand: the one beside it, if there is one.
        checkpoint: where it should be.
        of: what to call that.

    Raises:
        TensorError: if it does not.
    """
    where = of if of == checkpoint.label else f"{of} ({checkpoint.label})"
    if operand is None:
        near = nearest(name, checkpoint.tensors)
        remedy = "measure it for this model, or add a rule that merges or copies this tensor otherwise"
        raise TensorError(f"{where} has no tensor {name!r}", f"{remedy}; {near}" if near else remedy)
    if operand.spec.shape != spec.shape or operand.spec.dtype.kind is not Kind.FLOAT:
        what = f"{where}: tensor {name!r} is {operand.spec}, the models have {spec}"
        raise TensorError(what, "it belongs to another model")
    return operand


def unreadable_figures(program: Program, checkpoint: Checkpoint, of: str) -> Iterator[Problem]:
    """Figures in a file's metadata that would be believed, but are not numbers."""
    for key in {s.known[1] for s in program.statistics if isinstance(s, Statistic) and s.known}:
        text = checkpoint.metadata.get(key, "0")
        try:
            sound = 0 <= float(text) < float("inf")
        except ValueError:
            sound = False
        if not sound:
            yield Problem(
                f"{of} ({checkpoint.label}): its metadata say {key} = {text!r}", "measure it again, or remove the entry"
            )
