"""Which tensors a method's whole steps are for, and what stands beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from weft.algorithms.program import Program
from weft.algorithms.whole import Beside
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.engine.misfits import TensorError, check_beside
from weft.engine.work import Key, Operand
from weft.errors import Problem, listed, nearest
from weft.kernels.dtypes import Kind

Sources = Sequence[tuple[Key, Checkpoint, str]]
"""For each argument that is fed from beside the models: from where, and what to call that."""


class Fitting:
    """Decides for each tensor of a plan how much of its program holds for it. Tensors that are alike share programs."""

    def __init__(self) -> None:
        self._programs: dict[tuple[int, bool, bool], tuple[Program, Program]] = {}
        self._asked: dict[str, tuple[Checkpoint, list[str]]] = {}
        self._found: Counter[str] = Counter()
        self._partly: dict[str, list[str]] = {}

    def fitted(
        self, names: Sequence[str], spec: TensorSpec, program: Program, sources: Sources
    ) -> tuple[Program, dict[Key, Operand]]:
        """The steps that hold for a tensor, and what stands beside it.

        Args:
            names: of the tensor.
            spec: the models' tensor.
            program: how its method computes.
            sources: of what stands beside the models.

        Raises:
            TensorError: if something is missing beside it that must be there, or does not fit.
        """
        whole = program.whole is not None and program.whole.is_for(names, spec.shape)
        after = program.after is not None and program.after.is_for(names, spec.shape)
        operands = {
            key: check_beside(names[0], spec, operand_of(checkpoint, names), checkpoint, of)
            for key, checkpoint, of in sources
            if key[0] not in program.beside
        }
        if whole and program.beside:
            beside = self._beside(names, spec, program, sources)
            whole = beside is not None
            operands |= beside or {}
        return self._variant(program, whole, after), operands

    def _beside(
        self, names: Sequence[str], spec: TensorSpec, program: Program, sources: Sources
    ) -> dict[Key, Operand] | None:
        """What only a whole step looks at; None if the tensor has to do without."""
        found: dict[Key, Operand] = {}
        lacking: list[str] = []
        measured = False
        for key, checkpoint, of in sources:
            if key[0] not in program.beside:
                continue
            beside = program.beside[key[0]]
            operand = operand_of(checkpoint, [f"{name}{beside.suffix}" for name in names])
            self._asked.setdefault(of, (checkpoint, []))[1].append(f"{names[0]}{beside.suffix}")
            if operand is not None:
                found[key] = _checked(names[0], spec, operand, beside, checkpoint, of)
                self._found[of] += 1
                measured = measured or beside.optional
            elif beside.optional:
                lacking.append(key[0])
            else:
                check_beside(f"{names[0]}{beside.suffix}", spec, None, checkpoint, of)
        if lacking and measured:
            self._partly.setdefault(lacking[0], []).append(names[0])
        return None if lacking else found

    def _variant(self, program: Program, whole: bool, after: bool) -> Program:
        if whole == (program.whole is not None) and after == (program.after is not None):
            return program
        key = (id(program), whole, after)
        if key not in self._programs:
            left = replace(program, whole=program.whole if whole else None, after=program.after if after else None)
            self._programs[key] = (left, program)  # which keeps the number its own
        return self._programs[key][0]

    def problems(self) -> Iterator[Problem]:
        """Files beside the models that have nothing for any tensor: they belong to something else."""
        for of, (checkpoint, names) in self._asked.items():
            if not self._found[of]:
                what = f"{of} ({checkpoint.label}) has nothing for any of the {len(names)} tensor(s) that could use it"
                near = nearest(names[0], checkpoint.tensors)
                yield Problem(f"{what}: there is no {names[0]!r}", near or "it belongs to another model")

    def warnings(self) -> Iterator[str]:
        """Tensors that have to do without what only some models have for them, or only in part."""
        for argument, names in self._partly.items():
            said = (
                f"{len(names)} tensor(s) lack a {argument} in at least one model and are merged as if there were none"
            )
            yield f"{said}: {listed(names)}"


def _checked(name: str, spec: TensorSpec, operand: Operand, beside: Beside, checkpoint: Checkpoint, of: str) -> Operand:
    shape = tuple(beside.shape(spec.shape))
    if operand.spec.shape != shape or operand.spec.dtype.kind is not Kind.FLOAT:
        where = of if of == checkpoint.label else f"{of} ({checkpoint.label})"
        what = f"{where}: tensor {operand.spec.name!r} is {operand.spec}"
        wanted = f"; a tensor {name!r} of shape {list(spec.shape)} needs {list(shape)}"
        raise TensorError(f"{what}{wanted}", "it belongs to another model")
    return operand


def operand_of(checkpoint: Checkpoint, names: Iterable[str]) -> Operand | None:
    """The tensor of this checkpoint that goes by one of these names."""
    for name in names:
        spec = checkpoint.tensors.get(name)
        if spec is not None:
            return Operand(checkpoint, spec)
    return None
