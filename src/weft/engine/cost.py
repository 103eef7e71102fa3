"""What a plan will cost, known before it runs."""

from __future__ import annotations

from weft.algorithms.method import Total
from weft.engine.binding import arguments
from weft.engine.planning import Plan
from weft.engine.work import Work
from weft.kernels.folds import DIGITS


def bytes_to_move(plan: Plan) -> int:
    """Bytes that will be looked at or written, every pass counted."""
    looked_at = sum(sum(_nbytes(work, names) for names in _passes(work)) for work in plan.works)
    return looked_at + sum(copied.spec.nbytes for copied in plan.copies) + plan.write_bytes


def bytes_to_read(plan: Plan) -> int:
    """Bytes of input that are needed at all: a base that only lends its formats is not read."""
    needed = sum(_nbytes(work, set().union(*_passes(work))) for work in plan.works)
    return needed + sum(copied.spec.nbytes for copied in plan.copies)


def passes(plan: Plan) -> int:
    """How often the input is gone over: once for every round of a statistic, and once to compute."""
    return max((len(_passes(work)) for work in plan.works), default=1)


def _passes(work: Work) -> list[set[str]]:
    """For every pass over a tensor, the arguments that it asks for."""
    program = work.program
    asked = [arguments(program.element)]
    for statistic in program.statistics:
        rounds = 1 if isinstance(statistic.fold, Total) else 8 * work.compute.itemsize // DIGITS
        asked += [arguments(statistic.expression)] * rounds
    return asked


def _nbytes(work: Work, names: set[str]) -> int:
    return sum(operand.spec.nbytes for (name, _), operand in work.operands.items() if name in names)
