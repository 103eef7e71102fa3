"""What a plan will cost, known before it runs."""

from __future__ import annotations

from collections import Counter

from weft.algorithms.program import Share, Statistic
from weft.engine.binding import asked_by
from weft.engine.planning import Plan
from weft.engine.together import groups
from weft.engine.whole import asked_at_last
from weft.engine.work import Work
from weft.kernels.folds import DIGITS


def bytes_to_move(plan: Plan) -> int:
    """Bytes that will be looked at or written, every pass counted."""
    demands = _Demands()
    looked_at = sum(_looked_at(work, demands) for work in plan.works)
    return looked_at + sum(copied.spec.nbytes for copied in plan.copies) + plan.write_bytes


def bytes_to_move_for(work: Work) -> int:
    """The same for one tensor that is computed."""
    return _looked_at(work, _Demands()) + work.spec.nbytes * (1 + len(work.aliases))


def _looked_at(work: Work, demands: _Demands) -> int:
    times = demands.of(work)
    return sum(times[name] * operand.spec.nbytes for (name, _), operand in work.operands.items() if name in times)


def bytes_to_read(plan: Plan) -> int:
    """Bytes of input that are needed at all: a base that only lends its formats is not read."""
    demands = _Demands()
    needed = sum(_needed(work, demands) for work in plan.works)
    return needed + sum(copied.spec.nbytes for copied in plan.copies)


def _needed(work: Work, demands: _Demands) -> int:
    times = demands.of(work)
    return sum(operand.spec.nbytes for (name, _), operand in work.operands.items() if name in times)


def passes(plan: Plan) -> int:
    """How often the input is gone over: once for every round of a statistic, and once to compute."""
    kinds = {(id(work.program), work.compute.name): work for work in plan.works}
    return max((len(_passes(work)) for work in kinds.values()), default=1)


class _Demands:
    """How often each argument of a program is read; worked out once, since thousands of tensors share a program."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Counter[str]] = {}

    def of(self, work: Work) -> Counter[str]:
        """For each argument, in how many passes over this tensor it is read."""
        key = (id(work.program), work.compute.name)
        if key not in self._known:
            self._known[key] = Counter(name for asked in _passes(work) for name in asked)
        return self._known[key]


def _passes(work: Work) -> list[set[str]]:
    """For every pass over a tensor, the arguments that it asks for.

    A search for a rank takes one, as its sample is hardly ever misleading.
    """
    program = work.program
    asked = [asked_at_last(program)]
    for stage, *_ in groups(program):
        if isinstance(stage.statistic, Statistic):
            rounds = 8 * work.compute.itemsize // DIGITS if isinstance(stage.statistic.fold, Share) else 1
            asked += [asked_by(program, stage)] * rounds
    return asked
