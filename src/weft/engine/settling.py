"""Finds out the few numbers that a method must know about a whole scope before it can compute one parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from weft.algorithms.program import BEFORE, Derived, Number, Numbers, Program, Stage
from weft.engine.binding import Values, asked_by
from weft.engine.passes import answered
from weft.engine.ranking import row_length
from weft.engine.scope import Scope
from weft.engine.together import groups
from weft.engine.work import Work
from weft.kernels.element import Scalar


def settle(scope: Scope) -> dict[Work, Values]:
    """All numbers that the scope's scalar functions may ask for: parameters, and the statistics computed here.

    Tensors may differ in the numbers of their parameters, and even in options that choose functions: every statistic
    then runs over the whole scope with the functions of the one that asks, and each tensor's own numbers.
    """
    changes = _Settling(scope, {work: numbers(work) for work in scope.works}, BEFORE)
    own = {work: changes.of(work) for work in scope.works}
    methods = _Settling(scope, own, "", changes.count)
    return {work: methods.of(work) for work in scope.works}


class _Settling:
    """Finds out what programs ask for: of their changes, each for its own tensors; then of their methods, for all.

    Args:
        scope: which tensors.
        begin: the numbers known before.
        prefix: whose statistics: `BEFORE` those of changes, else those of methods.
        count: how many statistics were found out before.
    """

    def __init__(self, scope: Scope, begin: dict[Work, Values], prefix: str, count: int = 1) -> None:
        self._scope = scope
        self._known: dict[Any, dict[Work, Values]] = {(): begin}
        self._prefix = prefix
        self._before = count - 1
        self._ends: dict[int, Any] = {}  # for each program what is known when all its statistics are

    @property
    def count(self) -> int:
        """How many statistics were found out so far, and one."""
        return self._before + len(self._known)

    def of(self, work: Work) -> Values:
        """All that is known of a tensor."""
        if id(work.program) not in self._ends:
            self._ends[id(work.program)] = self._end(work.program)
        return self._known[self._ends[id(work.program)]][work]

    def _end(self, program: Program) -> tuple[Any, ...]:
        done: tuple[Any, ...] = ()
        for group in self._groups(program):
            known, ends = self._known[done], []
            for stage in group:
                done = (*done, stage, *_chosen(program, stage))
                ends.append(done)
            if done in self._known:
                continue
            every = _results(self._asking(group[0]), self.count, group, program, known)
            for end, stage, results in zip(ends, group, every, strict=True):
                name = stage.statistic.name
                known = {w: {**v, name: results[w]} if w in results else v for w, v in known.items()}
                self._known[end] = known
        return done

    def _groups(self, program: Program) -> Iterator[list[Stage]]:
        """Stages that one pass finds together, unless some tensor asks for one of them without the others."""
        for group in groups(program):
            if group[0].prefix == self._prefix:
                asking = [self._asking(stage).works for stage in group]
                yield from [group] if all(works == asking[0] for works in asking) else ([stage] for stage in group)

    def _asking(self, stage: Stage) -> Scope:
        """The scope of a statistic: a change is about the tensors that it happens to, and no others."""
        if not self._prefix:
            return self._scope
        asking = [work for work in self._scope.works if stage in work.program.stages]
        return self._scope if len(asking) == len(self._scope.works) else replace(self._scope, works=asking)


def numbers(work: Work) -> dict[str, Number]:
    """The numbers that are known of a tensor before anything is read."""
    return {**work.program.numbers, "length": float(row_length(work.spec.shape))}


def _results(
    scope: Scope, number: int, group: Sequence[Stage], program: Program, before: Mapping[Work, Values]
) -> Sequence[Mapping[Work, Number]]:
    """For each of some statistics that one pass finds the number of each tensor."""
    stage = group[0]
    if isinstance(stage.statistic, Derived):
        works = sorted(scope.works, key=lambda work: work.spec.name)
        known = [Numbers(w.spec.name, w.spec.shape, _own_names(stage.prefix, before[w])) for w in works]
        return [dict(zip(works, stage.statistic.compute(known), strict=True))]
    if not stage.by_tensor:
        return answered(scope, number, group, program, before)
    parts = (replace(scope, works=[work]) for work in scope.works)
    each = [answered(part, number, group, program, before) for part in parts]
    return [
        {work: number for found in results for work, number in found.items()} for results in zip(*each, strict=True)
    ]


def _own_names(prefix: str, values: Values) -> Values:
    """Numbers by the names that a part of a program gave them."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _chosen(program: Program, stage: Stage) -> Iterator[Scalar]:
    asked = asked_by(program, stage)
    return (function for name, function in program.all_functions.items() if name in asked)
