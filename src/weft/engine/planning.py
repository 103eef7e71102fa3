"""What will happen to every tensor, decided from headers; every problem is found here, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weft.algorithms.chain import Chain
from weft.algorithms.program import BEFORE, Program, Taken
from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.engine.collector import collector_waits
from weft.engine.compiling import check_methods
from weft.engine.fitting import Fitting, operand_of
from weft.engine.inputs import Inputs
from weft.engine.kinship import by_part, empty, strangers, unequal_experts, unequal_stacks
from weft.engine.measured import another_kind, measured_elsewhere
from weft.engine.misfits import (
    MissingError,
    TensorError,
    check_alike,
    check_equal,
    missing,
    unreadable_figures,
)
from weft.engine.scopes import in_one_precision
from weft.engine.tied import Tied, tied_groups
from weft.engine.whole import asked_by_steps
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


def as_copy(output: TensorSpec, operand: Operand, aliases: tuple[str, ...] = (), rule: str = "") -> Work | Copied:
    """An output that is one input's tensor: its bytes, or its numbers in another format."""
    if output.dtype == operand.spec.dtype:
        return Copied(output, operand, aliases, rule)
    one: dict[Key, Operand] = {("tuned", 0): operand}
    return Work(output, Program(converted), None, one, {}, 1, compute_dtype([operand.spec.dtype]), aliases, rule)


@dataclass(frozen=True)
class _Manner:
    """What tensors have in common that are merged by one method and held by the same inputs in the same formats.

    Attributes:
        program: how they are computed.
        places: for each argument the input that feeds it; the base stands in for a model that lacks them.
        beside: for each argument that is fed from beside the models, from where, and what to call that.
        constants: what stands in the place of tensors that are not there.
        compute: the precision of the arithmetic.
    """

    program: Program
    places: tuple[tuple[Key, str], ...]
    beside: tuple[tuple[Key, Checkpoint, str], ...]
    constants: Mapping[Key, float]
    compute: DType


@collector_waits()
def make_plan(recipe: Recipe, inputs: Inputs) -> Plan:
    """Plan a merge.

    Args:
        recipe: what is wanted.
        inputs: its checkpoints, opened.

    Raises:
        InputError: with every problem found: tensors that are missing, have another shape or format, or belong to
            integer buffers that differ; statistics that do not fit; a base that a method lacks; mistakes in a method
            that another package brings.
    """
    plan = _Planner(recipe, inputs).plan()
    check_methods(plan.works)
    return plan


class _Planner:
    def __init__(self, recipe: Recipe, inputs: Inputs) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._members = dict(inputs.all())
        self._names = tuple(dict.fromkeys(name for checkpoint in self._members.values() for name in checkpoint.tensors))
        self._resolver = Resolver(recipe)
        self._programs: dict[tuple[int, tuple[int, ...]], Program] = {}
        self._manners: dict[tuple[int, tuple[str, ...], tuple[str, ...]], _Manner] = {}
        self._unsettled = inputs.vocabulary.unsettled if inputs.vocabulary else frozenset()
        self._problems: list[Problem] = []
        self._foreign: list[Problem] = []
        self._warnings: list[str] = []
        self._hints = _HINTS
        self._missing: dict[tuple[str, str], list[str]] = {}
        self._fitting = Fitting()

    def plan(self) -> Plan:
        self._check_bases()
        self._problems += empty(self._inputs)
        self._problems += self._inputs.vocabulary.problems if self._inputs.vocabulary else ()
        self._open_auxiliaries()
        if self._foreign:  # of what fits another model every tensor would be wrong
            raise InputError([*self._problems, *self._foreign])
        tied = tied_groups(self._inputs)
        self._problems += tied.problems
        items, dropped = self._decided(tied)
        self._problems += self._fitting.problems()
        if self._problems:
            raise InputError(self._problems)
        if not items:
            raise InputError("nothing is left to merge: the rules drop every tensor", "keep at least one")
        return self._assembled(items, dropped)

    def _decided(self, tied: Tied) -> tuple[list[Work | Copied], list[str]]:
        """What is computed or copied, and the names that are dropped; problems are noted."""
        items: list[Work | Copied] = []
        dropped: list[str] = []
        lacking: dict[str, Problem] = {}
        for names, action in self._groups(tied):
            if isinstance(action, Drop):
                dropped.extend(names)
                continue
            try:
                items.append(self._used(names, action) if isinstance(action, Use) else self._merged(names, action))
            except MissingError as fault:
                lacking[names[0]] = fault.problem
            except TensorError as fault:
                if self._unsettled.isdisjoint(names):  # else what is wrong with their rows has been said
                    self._problems.append(fault.problem)
        self._problems += self._explained(lacking)
        return items, dropped

    def _check_bases(self) -> None:
        for used in self._resolver.methods():
            if self._inputs.base is None and (used.needs_base or "base" in asked_by_steps(self._program(used))):
                self._problems.append(
                    Problem(f"method {used.name} needs a base model", "add `base:` (on the command line -b)")
                )

    def _explained(self, lacking: Mapping[str, Problem]) -> list[Problem]:
        """Tensors that are missing, after what they have in common, or instead of them if that says it all."""
        absent = dict.fromkeys((*lacking, *(name for names in self._missing.values() for name in names)))
        if not absent or any(empty(self._inputs)):
            return []
        alien = list(strangers(self._inputs)) if lacking else []
        if alien:
            return alien
        stacked, told = unequal_experts(self._inputs, absent)
        left = {name: problem for name, problem in lacking.items() if name not in told}
        depths = unequal_stacks(self._inputs) if left else ()
        return [*stacked, *depths, *by_part(self._inputs, left)]

    def _open_auxiliaries(self) -> None:
        """Open what stands beside the checkpoints, so that a file that cannot be opened is one problem, not many."""
        for used in self._resolver.methods():
            for (argument, i), source, of in self._sources(self._program(used)):
                taken = self._program(used).taken(argument)
                try:
                    checkpoint = self._inputs.auxiliary(source, of, taken)
                except InputError as error:
                    self._problems += [labelled(of, problem) for problem in error.problems]
                    continue
                self._problems += unreadable_figures(self._program(used), checkpoint, of)
                self._foreign += self._misplaced(checkpoint, argument, i, of, taken)

    def _misplaced(
        self, checkpoint: Checkpoint, argument: str, i: int | None, of: str, taken: Taken
    ) -> Iterator[Problem]:
        """What is wrong if what stands beside a model is about another, or is something else."""
        if i is None:
            return
        model, base = self._inputs.models[i], self._inputs.base
        about = base if taken.at_base else model
        found = [
            another_kind(checkpoint, argument.removeprefix(BEFORE), of),
            measured_elsewhere(checkpoint, about, of) if about else None,
            measured_elsewhere(checkpoint, base, of, "base") if base else None,
        ]
        yield from [problem for problem in found if problem][:1]

    def _sources(self, program: Program) -> Iterator[tuple[Key, Any, str]]:
        """Every source of tensors beside the checkpoints: what it feeds, where it is, what to call it."""
        for argument, sources in program.sources.items():
            if not isinstance(sources, tuple):
                yield (argument, None), sources, argument.removeprefix(BEFORE)
                continue
            for i, source in enumerate(sources):
                if source is not None:
                    yield (argument, i), source, f"{argument.removeprefix(BEFORE)} of model {self._inputs.names[i]!r}"

    def _groups(self, tied: Tied) -> Iterator[tuple[tuple[str, ...], Action]]:
        """Names that are one tensor and are treated alike, with what is done with them."""
        members: dict[str, list[str]] = {}
        for name in self._names:
            members.setdefault(tied.origin.get(name, name), []).append(name)
        for names in members.values():
            if len(names) == 1:
                yield (names[0],), self._resolver.action(names[0])
            else:
                yield from self._alike(names, tied)

    def _alike(self, names: Sequence[str], tied: Tied) -> Iterator[tuple[tuple[str, ...], Action]]:
        """Names that are one tensor, parted where rules treat them differently."""
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

    def _used(self, names: tuple[str, ...], action: Use) -> Work | Copied:
        checkpoint = self._inputs.called(action.source)
        operand = operand_of(checkpoint, names)
        if operand is None:
            what = f"tensor {names[0]!r}: a rule says use: {action.source}, but {checkpoint.label} does not have it"
            raise TensorError(what, self._respelt(names, checkpoint) or self._owners(names))
        expected = operand_of(self._inputs.reference, names)
        if expected and expected.spec.shape != operand.spec.shape:
            shapes = f"{list(operand.spec.shape)}, the base's {list(expected.spec.shape)}"
            text = (
                f"tensor {names[0]!r} copied from {action.source} has shape {shapes}; the output's config is the base's"
            )
            self._warnings.append(text)
        return self._copied(names, operand, expected, action.rule)

    def _respelt(self, names: tuple[str, ...], checkpoint: Checkpoint) -> str:
        """A clause that offers what the tensor may be called there; what its owners have beside it is another one."""
        owners = [member for member in self._members.values() if operand_of(member, names)]
        return nearest(names[0], (n for n in checkpoint.tensors if not any(n in owner.tensors for owner in owners)))

    def _owners(self, names: tuple[str, ...]) -> str:
        """What to write in a rule instead of an input that lacks a tensor."""
        labels = [label for label, checkpoint in self._members.items() if operand_of(checkpoint, names)]
        uses = [f"`use: {label.removeprefix('model ').strip(chr(39))}`" for label in labels]
        return f"change the rule, or write one for this tensor before it: {', '.join(uses[:2])} or `use: drop`"

    def _copied(self, names: tuple[str, ...], operand: Operand, expected: Operand | None, rule: str) -> Work | Copied:
        kept = self._output_names(names)
        output = _named(operand.spec, kept[0], self._output_dtype(operand, expected))
        return as_copy(output, operand, kept[1:], rule)

    def _output_dtype(self, operand: Operand, expected: Operand | None) -> DType:
        """As the recipe says; else as the reference stores it, if it has the tensor (`expected`); else as it is."""
        if operand.spec.dtype.kind is not Kind.FLOAT:
            return operand.spec.dtype
        if self._recipe.output.dtype:
            return BY_NAME[self._recipe.output.dtype]
        return (expected if expected and expected.spec.dtype.kind is Kind.FLOAT else operand).stored_dtype

    def _merged(self, names: tuple[str, ...], action: Merge) -> Work | Copied:
        found = {label: o for label, checkpoint in self._members.items() if (o := operand_of(checkpoint, names))}
        expected = found.get(next(iter(self._members)))
        if len(found) < len(self._members) and self._is_left_to_base(names[0], action.method, found):
            return self._copied(names, found["base"], expected, action.rule)
        check_alike(names[0], found)
        lender = found.get("base") or next(iter(found.values()))
        if lender.spec.dtype.kind is Kind.EXACT:
            check_equal(names[0], found)
            return self._copied(names, next(iter(found.values())), expected, action.rule)
        kept = self._output_names(names)
        output = _named(lender.spec, kept[0], self._output_dtype(lender, expected))
        manner = self._settled(names[0], action.method, found)
        operands = {key: found[label] for key, label in manner.places}
        program, beside = self._fitting.fitted(names, lender.spec, manner.program, manner.beside)
        operands |= beside
        constants = manner.constants
        models = len(self._inputs.names)
        return Work(output, program, action.method, operands, constants, models, manner.compute, kept[1:], action.rule)

    def _is_left_to_base(self, name: str, method: Chain, found: Mapping[str, Operand]) -> bool:
        """For a tensor that an input lacks: whether it is copied from the base, else it is merged without that input.

        Raises:
            MissingError: if the recipe's policy allows neither.
        """
        lacking = {
            label: checkpoint
            for label, checkpoint in self._members.items()
            if label not in found and (label != "base" or method.needs_base)
        }
        if not lacking:
            return False
        policy = self._recipe.on_missing
        if policy == "base" and "base" in found:
            self._tell_missing(name, lacking, "the base's is copied")
            return True
        if policy != "skip-model" or "base" in lacking or set(found) <= {"base"}:  # no task vector without a base
            self._hints -= 1
            raise missing(name, lacking, found, hint=self._hints >= 0)
        self._tell_missing(name, lacking, "it is merged without")
        return False

    def _settled(self, name: str, method: Chain, found: Mapping[str, Operand]) -> _Manner:
        try:
            return self._manner(method, found)
        except InputError as error:
            lacking = ", ".join(label for label in self._members if label not in found)
            remedy = "add a rule with `use:` for this tensor, or choose other weights"
            raise TensorError(
                f"tensor {name!r} is missing from {lacking}; without it, {error.problems[0].what}", remedy
            ) from None

    def _manner(self, method: Chain, found: Mapping[str, Operand]) -> _Manner:
        """Worked out once for all tensors that the same inputs hold in the same formats."""
        key = (id(method), tuple(found), tuple(operand.spec.dtype.name for operand in found.values()))
        if key not in self._manners:
            self._manners[key] = self._new_manner(method, found)
        return self._manners[key]

    def _new_manner(self, method: Chain, found: Mapping[str, Operand]) -> _Manner:
        labels = [f"model {name!r}" for name in self._inputs.names]
        absent = tuple(i for i, label in enumerate(labels) if label not in found)
        program = self._program(method, absent)
        places: dict[Key, str] = {("base", None): "base"} if "base" in found else {}
        places |= {("tuned", i): label for i, label in enumerate(labels) if label in found}
        places |= {("tuned", i): "base" for i in absent if "base" in found}
        beside = [
            (key, checkpoint, of)
            for key, source, of in self._sources(program)
            if key[1] not in absent and (checkpoint := self._inputs.opened(source, of))
        ]
        present = {*places, *(key for key, _, _ in beside)}
        arguments = ["tuned", *(a for a, sources in program.sources.items() if isinstance(sources, tuple))]
        every: list[Key] = [(argument, i) for argument in arguments for i in range(len(labels))]
        return _Manner(
            program,
            tuple(places.items()),
            tuple(beside),
            {key: 0.0 if key[1] in absent else 1.0 for key in every if key not in present},
            compute_dtype([found[label].spec.dtype for label in places.values()]),
        )

    def _tell_missing(self, name: str, lacking: Iterable[str], done: str) -> None:
        self._missing.setdefault((", ".join(lacking), done), []).append(name)

    def _program(self, method: Chain, absent: tuple[int, ...] = ()) -> Program:
        """What a method runs; for a tensor that some models lack, with those models' weight at 0."""
        key = (id(method), absent)
        if key not in self._programs:
            self._programs[key] = (method.ignoring(absent) if absent else method).program()
        return self._programs[key]

    def _output_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Of the names of one tensor, those that the reference has; all, if it has none of them."""
        if len(names) == 1:
            return names
        return tuple(n for n in names if n in self._inputs.reference.tensors) or names

    def _assembled(self, items: list[Work | Copied], dropped: list[str]) -> Plan:
        place = {name: k for k, name in enumerate(self._names)}
        outputs = [item.spec for item in items]
        outputs += [replace(item.spec, name=alias) for item in items for alias in item.aliases]
        outputs.sort(key=lambda spec: place[spec.name])
        warnings = [*self._inputs.notes, *self._warnings]
        for (lacking, done), names in self._missing.items():
            warnings.append(f"{len(names)} tensor(s) missing from {lacking}, {done}: {listed(names)}")
        warnings += self._fitting.warnings()
        warnings += [remark for program in self._programs.values() for remark in program.remarks]
        warnings += [f"rule {patterns!r} matched no tensor" for patterns in self._resolver.unused_rules()]
        works = in_one_precision([item for item in items if isinstance(item, Work)])
        copies = tuple(item for item in items if isinstance(item, Copied))
        return Plan(works, copies, tuple(outputs), tuple(dropped), tuple(warnings))


def _named(spec: TensorSpec, name: str, dtype: DType) -> TensorSpec:
    """The same shape under a name and in a format; nothing new if that is what it has."""
    return spec if spec.name == name and spec.dtype is dtype else TensorSpec(name, dtype, spec.shape)
