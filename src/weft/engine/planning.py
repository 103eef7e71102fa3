"""What will happen to every tensor, decided from headers; every problem is found here, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from weft.algorithms.method import Method, Program
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.comparing import same_numbers
from weft.engine.inputs import Inputs
from weft.engine.kinship import empty, strangers, unequal_stacks
from weft.engine.tied import Tied, tied_groups
from weft.engine.work import Copied, Key, Operand, Work
from weft.errors import InputError, Problem, labelled, listed, nearest
from weft.kernels.dtypes import BY_NAME, DType, Kind, compute_dtype
from weft.kernels.element import element
from weft.recipes.resolving import Action, Drop, Merge, Resolver, Use
from weft.recipes.schema import Recipe


@dataclass(frozen=True)
class Plan:
    """Everything that will be computed and copied.

    Attributes:
        works, copies: the output's tensors.
        outputs: all names of the output, in order.
        dropped: tensors that a rule leaves out.
        warnings: what a person should know before.
    """

    works: tuple[Work, ...]
    copies: tuple[Copied, ...]
    outputs: tuple[TensorSpec, ...]
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def items(self) -> tuple[Work | Copied, ...]:
        """Works and copies."""
        return (*self.works, *self.copies)

    @property
    def write_bytes(self) -> int:
        """Bytes of output tensors."""
        return sum(spec.nbytes for spec in self.outputs)


_HINTS = 20
"""For how many missing tensors the nearest name is looked up."""


@element
def converted(tuned: tuple[float, ...]) -> float:
    """One parameter of one model, stored in another number format."""
    return tuned[0]


def as_copy(output: TensorSpec, operand: Operand) -> Work | Copied:
    """An output that is one input's tensor: its bytes, or its numbers in another format."""
    if output.dtype == operand.spec.dtype:
        return Copied(output, operand)
    one: dict[Key, Operand] = {("tuned", 0): operand}
    return Work(output, Program(converted), None, one, {}, 1, compute_dtype([operand.spec.dtype]))


class _TensorError(Exception):
    """A tensor cannot be planned."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.problem = Problem(what, remedy)


class _MissingError(_TensorError):
    """An input lacks a tensor."""


def make_plan(recipe: Recipe, inputs: Inputs) -> Plan:
    """Plan a merge.

    Args:
        recipe: what is wanted.
        inputs: its checkpoints, opened.

    Raises:
        InputError: with every problem found: tensors that are missing, have another shape or format, or belong to
            integer buffers that differ; statistics that do not fit; a base that a method lacks.
    """
    return _Planner(recipe, inputs).plan()


class _Planner:
    def __init__(self, recipe: Recipe, inputs: Inputs) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._resolver = Resolver(recipe)
        self._programs: dict[tuple[int, tuple[int, ...]], Program] = {}
        self._problems: list[Problem] = []
        self._warnings: list[str] = []
        self._hints = _HINTS
        self._missing: dict[tuple[str, str], list[str]] = {}

    def plan(self) -> Plan:
        self._check_bases()
        self._problems += empty(self._inputs)
        self._open_auxiliaries()
        tied = tied_groups(self._inputs)
        self._problems += tied.problems
        items: list[Work | Copied] = []
        dropped: list[str] = []
        lacking: list[Problem] = []
        for names, action in self._groups(tied):
            if isinstance(action, Drop):
                dropped.extend(names)
                continue
            try:
                items.append(replace(self._item(names, action), rule=action.rule))
            except _MissingError as fault:
                lacking.append(fault.problem)
            except _TensorError as fault:
                self._problems.append(fault.problem)
        self._problems += self._explained(lacking)
        if self._problems:
            raise InputError(self._problems)
        if not items:
            raise InputError("nothing is left to merge: the rules drop every tensor", "keep at least one")
        return self._assembled(items, dropped)

    def _check_bases(self) -> None:
        for used in self._resolver.methods():
            if used.needs_base and self._inputs.base is None:
                self._problems.append(
                    Problem(f"method {used.name} needs a base model", "add `base:` (on the command line -b)")
                )

    def _explained(self, lacking: list[Problem]) -> list[Problem]:
        """Tensors that are missing, after what they have in common, or instead of them if that says it all."""
        if not lacking or any(empty(self._inputs)):
            return []
        return list(strangers(self._inputs)) or [*unequal_stacks(self._inputs), *lacking]

    def _open_auxiliaries(self) -> None:
        """Open what stands beside the checkpoints, so that a file that cannot be opened is one problem, not many."""
        for used in self._resolver.methods():
            for _, source, of in self._sources(self._program(used)):
                try:
                    checkpoint = self._inputs.auxiliary(source, of)
                except InputError as error:
                    self._problems += [labelled(of, problem) for problem in error.problems]
                    continue
                self._problems += _unreadable_figures(self._program(used), checkpoint, of)

    def _sources(self, program: Program) -> Iterator[tuple[Key, Any, str]]:
        """Every source of tensors beside the checkpoints: what it feeds, where it is, what to call it."""
        for argument, sources in program.auxiliary.items():
            if not isinstance(sources, tuple):
                yield (argument, None), sources, argument
                continue
            for i, source in enumerate(sources):
                if source is not None:
                    yield (argument, i), source, f"{argument} of model {self._inputs.names[i]!r}"

    def _names(self) -> Iterator[str]:
        """All tensor names of all inputs, each once, the reference's first and in its order."""
        return iter(dict.fromkeys(name for _, c in self._inputs.all() for name in c.tensors))

    def _groups(self, tied: Tied) -> Iterator[tuple[tuple[str, ...], Action]]:
        """Names that are one tensor and are treated alike, with what is done with them."""
        members: dict[str, list[str]] = {}
        for name in self._names():
            members.setdefault(tied.origin.get(name, name), []).append(name)
        for names in members.values():
            alike: dict[int, tuple[Action, list[str]]] = {}
            for name in names:
                action = self._resolver.action(name)
                alike.setdefault(id(action), (action, []))[1].append(name)
            kept = [action for action, _ in alike.values() if not isinstance(action, Drop)]
            if len(kept) > 1 and names[0] in tied.certain:
                what = f"tensors {listed(names)} are one tensor, but the rules treat them differently"
                self._problems.append(Problem(what, "write one rule that matches all of them"))
            for action, together in alike.values():
                yield tuple(together), action

    def _item(self, names: tuple[str, ...], action: Use | Merge) -> Work | Copied:
        if isinstance(action, Use):
            return self._used(names, action)
        return self._merged(names, action.method)

    def _used(self, names: tuple[str, ...], action: Use) -> Work | Copied:
        checkpoint = self._inputs.called(action.source)
        operand = _operand(checkpoint, names)
        if operand is None:
            near = nearest(names[0], checkpoint.tensors)
            raise _TensorError(
                f"tensor {names[0]!r}: a rule says use: {action.source}, but {checkpoint.label} does not have it", near
            )
        expected = _operand(self._inputs.reference, names)
        if expected and expected.spec.shape != operand.spec.shape:
            shapes = f"{list(operand.spec.shape)}, the base's {list(expected.spec.shape)}"
            text = (
                f"tensor {names[0]!r} copied from {action.source} has shape {shapes}; the output's config is the base's"
            )
            self._warnings.append(text)
        return self._copied(self._output_names(names), operand)

    def _copied(self, names: tuple[str, ...], operand: Operand) -> Work | Copied:
        output = TensorSpec(names[0], self._output_dtype(names, operand), operand.spec.shape)
        return replace(as_copy(output, operand), aliases=names[1:])

    def _output_dtype(self, names: tuple[str, ...], operand: Operand) -> DType:
        """As the recipe says; else as the reference stores it, if it has the tensor; else as it is."""
        if operand.spec.dtype.kind is not Kind.FLOAT:
            return operand.spec.dtype
        if self._recipe.output.dtype:
            return BY_NAME[self._recipe.output.dtype]
        expected = _operand(self._inputs.reference, names)
        lender = expected if expected and expected.spec.dtype.kind is Kind.FLOAT else operand
        return lender.stored_dtype

    def _merged(self, names: tuple[str, ...], method: Method) -> Work | Copied:
        holders = self._holders(names, method)
        found = {label: operand for label, (_, operand) in holders.items() if operand}
        lacking = [label for label in holders if label not in found]
        if lacking and self._recipe.on_missing == "base" and "base" in found:
            self._tell_missing(names[0], lacking, "the base's is copied")
            return self._copied(self._output_names(names), found["base"])
        if lacking and (self._recipe.on_missing != "skip-model" or set(found) <= {"base"}):
            self._hints -= 1
            _check_complete(names[0], holders, found, hint=self._hints >= 0)
        elif lacking:
            self._tell_missing(names[0], lacking, "it is merged without")
        _check_alike(names[0], found)
        lender = found.get("base") or next(iter(found.values()))
        if lender.spec.dtype.kind is Kind.EXACT:
            return self._passed_through(names, found)
        return self._work(names, lender, method, found)

    def _work(self, names: tuple[str, ...], lender: Operand, method: Method, found: Mapping[str, Operand]) -> Work:
        models = [found.get(f"model {name!r}") for name in self._inputs.names]
        absent = tuple(i for i, operand in enumerate(models) if operand is None)
        program = self._program(method, absent)
        operands: dict[Key, Operand] = {("base", None): found["base"]} if "base" in found else {}
        operands |= {
            ("tuned", i): operand or found["base"] for i, operand in enumerate(models) if operand or "base" in found
        }
        compute = compute_dtype([operand.spec.dtype for operand in operands.values()])
        operands |= self._auxiliary_operands(names, lender.spec, program, absent)
        every = [("tuned", i) for i in range(len(models))]
        every += [
            (a, i) for a, sources in program.auxiliary.items() if isinstance(sources, tuple) for i in range(len(models))
        ]
        constants: dict[Key, float] = {key: 0.0 if key[1] in absent else 1.0 for key in every if key not in operands}
        dtype = self._output_dtype(names, lender)
        output = TensorSpec(self._output_names(names)[0], dtype, lender.spec.shape)
        aliases = self._output_names(names)[1:]
        return Work(output, program, method, operands, constants, len(models), compute, aliases)

    def _tell_missing(self, name: str, lacking: list[str], done: str) -> None:
        self._missing.setdefault((", ".join(lacking), done), []).append(name)

    def _program(self, method: Method, absent: tuple[int, ...] = ()) -> Program:
        """What a method runs; for a tensor that some models lack, with those models' weight at 0."""
        key = (id(method), absent)
        if key not in self._programs:
            self._programs[key] = (method.ignoring(absent) if absent else method).program()
        return self._programs[key]

    def _output_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Of the names of one tensor, those that the reference has; all, if it has none of them."""
        return tuple(n for n in names if n in self._inputs.reference.tensors) or names

    def _holders(self, names: tuple[str, ...], method: Method) -> dict[str, tuple[Checkpoint, Operand | None]]:
        """Every input that the method merges, with its tensor."""
        holders = {}
        for label, checkpoint in self._inputs.all():
            operand = _operand(checkpoint, names)
            if label != "base" or method.needs_base or operand:
                holders[label] = (checkpoint, operand)
        return holders

    def _passed_through(self, names: tuple[str, ...], found: Mapping[str, Operand]) -> Work | Copied:
        first_label, first = next(iter(found.items()))
        for label, operand in found.items():
            if not same_numbers(first.checkpoint, first.spec.name, operand.checkpoint, operand.spec.name):
                raise _TensorError(
                    f"tensor {names[0]!r} ({first.spec}) is not a float and differs between {first_label} "
                    f"({first.file}) and {label} ({operand.file})",
                    "integers cannot be merged: add a rule with `use: base` or `use: <model>`",
                )
        return self._copied(self._output_names(names), first)

    def _auxiliary_operands(
        self, names: tuple[str, ...], spec: TensorSpec, program: Program, absent: tuple[int, ...]
    ) -> dict[Key, Operand]:
        operands: dict[Key, Operand] = {}
        for key, source, of in self._sources(program):
            if key[1] not in absent and (checkpoint := self._inputs.opened(source)):
                operands[key] = _beside(names, spec, checkpoint, of)
        return operands

    def _assembled(self, items: list[Work | Copied], dropped: list[str]) -> Plan:
        place = {name: k for k, name in enumerate(self._names())}
        outputs = [replace(item.spec, name=name) for item in items for name in (item.spec.name, *item.aliases)]
        outputs.sort(key=lambda spec: place[spec.name])
        warnings = [*self._inputs.notes, *self._warnings]
        for (lacking, done), names in self._missing.items():
            warnings.append(f"{len(names)} tensor(s) missing from {lacking}, {done}: {listed(names)}")
        warnings += [remark for program in self._programs.values() for remark in program.remarks]
        warnings += [f"rule {patterns!r} matched no tensor" for patterns in self._resolver.unused_rules()]
        works = tuple(item for item in items if isinstance(item, Work))
        copies = tuple(item for item in items if isinstance(item, Copied))
        return Plan(works, copies, tuple(outputs), tuple(dropped), tuple(warnings))


def _placed(label: str, checkpoint: Checkpoint) -> str:
    return label if label == checkpoint.label else f"{label} ({checkpoint.label})"


def _operand(checkpoint: Checkpoint, names: Iterable[str]) -> Operand | None:
    """The tensor of this checkpoint that goes by one of these names."""
    found = next((name for name in names if name in checkpoint.tensors), None)
    return Operand(checkpoint, checkpoint.tensors[found]) if found is not None else None


def _beside(names: tuple[str, ...], spec: TensorSpec, checkpoint: Checkpoint, of: str) -> Operand:
    """The tensor that stands beside those of the models, of the same name and shape."""
    operand = _operand(checkpoint, names)
    where = of if of == checkpoint.label else f"{of} ({checkpoint.label})"
    if operand is None:
        near = nearest(names[0], checkpoint.tensors)
        remedy = "measure it for this model, or add a rule that merges or copies this tensor otherwise"
        raise _TensorError(f"{where} has no tensor {names[0]!r}", f"{remedy}; {near}" if near else remedy)
    if operand.spec.shape != spec.shape or operand.spec.dtype.kind is not Kind.FLOAT:
        what = f"{where}: tensor {names[0]!r} is {operand.spec}, the models have {spec}"
        raise _TensorError(what, "it belongs to another model")
    return operand


def _unreadable_figures(program: Program, checkpoint: Checkpoint, of: str) -> Iterator[Problem]:
    """Figures in a file's metadata that would be believed, but are not numbers."""
    for key in {statistic.known[1] for statistic in program.statistics if statistic.known}:
        text = checkpoint.metadata.get(key, "0")
        try:
            sound = 0 <= float(text) < float("inf")
        except ValueError:
            sound = False
        if not sound:
            yield Problem(
                f"{of} ({checkpoint.label}): its metadata say {key} = {text!r}", "measure it again, or remove the entry"
            )


def _check_complete(
    name: str, holders: Mapping[str, tuple[Checkpoint, Operand | None]], found: Mapping[str, Operand], hint: bool
) -> None:
    """Every input that is merged must have the tensor; a hint at the nearest name takes time."""
    missing = [label for label in holders if label not in found]
    if not missing:
        return
    shared = {known for operand in found.values() for known in operand.checkpoint.tensors} if hint else set()
    near = nearest(name, holders[missing[0]][0].tensors.keys() - shared) if hint else ""
    lacking = ", ".join(_placed(label, holders[label][0]) for label in missing)
    uses = [f"`use: {label.removeprefix('model ').strip(chr(39))}`" for label in found]
    remedy = f"add a rule for it: {', '.join(uses[:2])} or `use: drop`; or choose a policy with `on_missing:`"
    what = f"tensor {name!r} is in {', '.join(found)} but missing from {lacking}"
    raise _MissingError(what, f"{remedy}; {near}" if near else remedy)


def _check_alike(name: str, found: Mapping[str, Operand]) -> None:
    """All must have one shape and one kind of number."""
    first = next(iter(found.items()))
    for other in found.items():
        _check_pair(name, first, other)


def _check_pair(name: str, first: tuple[str, Operand], second: tuple[str, Operand]) -> None:
    (label_a, a), (label_b, b) = first, second
    files = f"{a.file} and {b.file}"
    if a.spec.shape != b.spec.shape:
        raise _TensorError(
            f"tensor {name!r} has shape {list(a.spec.shape)} in {label_a} "
            f"but {list(b.spec.shape)} in {label_b} ({files})",
            "merge models of one architecture, or add a rule with `use:` for this tensor",
        )
    if a.spec.dtype.kind is Kind.OPAQUE or b.spec.dtype.kind is Kind.OPAQUE:
        label, opaque = (label_a, a) if a.spec.dtype.kind is Kind.OPAQUE else (label_b, b)
        raise _TensorError(
            f"tensor {name!r} is {opaque.spec.dtype} in {label} ({opaque.file}); its codes cannot be averaged",
            "convert the model to bfloat16 first, or add a rule with `use:`",
        )
    both_exact = a.spec.dtype.kind is b.spec.dtype.kind is Kind.EXACT
    if a.spec.dtype.kind is not b.spec.dtype.kind or (both_exact and a.spec.dtype != b.spec.dtype):
        raise _TensorError(
            f"tensor {name!r} is {a.spec.dtype} in {label_a} but {b.spec.dtype} in {label_b} ({files})",
            "save both in one format, or add a rule with `use:`",
        )
