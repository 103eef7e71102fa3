"""The answer to one statistic of a scope: told by a file, settled by an earlier run, or found in passes over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.algorithms.program import Extreme, Gram, Number, Program, Rank, Stage, Statistic, Total
from weft.algorithms.program import Share as ShareOf
from weft.engine.binding import Values
from weft.engine.folding import extremes, products, totals
from weft.engine.scope import Scope
from weft.engine.selecting import Answers, selected
from weft.engine.sweeping import Slot, Sweep
from weft.engine.work import Work


def answered(
    scope: Scope, number: int, group: Sequence[Stage], program: Program, values: Mapping[Work, Values]
) -> list[dict[Work, Number]]:
    """Of some statistics that the same passes find, for each tensor its number, or one for each model.

    Args:
        scope: which tensors.
        number: which of the scope's statistics it is, counted from 1.
        group: what is asked: one statistic, or several ranks of one expression.
        program: of the tensor that asks; its functions are what the expression receives.
        values: the numbers known before, for each tensor.
    """
    statistics = [stage.statistic for stage in group if isinstance(stage.statistic, Statistic)]
    slots = _slots(scope, statistics[0])
    told = {slot: figure for slot in slots if (figure := _told(scope, statistics[0], slot)) is not None}
    asked = [slot for slot in slots if slot not in told]
    found: Answers = {}
    if asked:
        key = (*scope.key, number)
        found = _found(Sweep(scope, key, group[0], program, values, asked), key, statistics)

    def of(work: Work, k: int) -> Number:
        row = tuple(told[slot] if slot in told else found[work, slot, k] for slot in slots)
        return row[0] if slots == [None] else row

    return [{work: of(work, k) for work in scope.works} for k in range(len(statistics))]


def _slots(scope: Scope, statistic: Statistic) -> list[Slot]:
    by_model = statistic.each or isinstance(statistic.fold, Gram)
    return list(range(scope.works[0].models)) if by_model else [None]


def _told(scope: Scope, statistic: Statistic, slot: Slot) -> float | None:
    """The figure in the metadata of an auxiliary file, where the statistic may be known from there."""
    if statistic.known is None:
        return None
    argument, key = statistic.known
    operand = scope.works[0].operands.get((argument, slot))
    told = operand.checkpoint.metadata.get(key) if operand else None
    return float(told) if told is not None else None


def _found(sweep: Sweep, key: tuple[object, ...], statistics: Sequence[Statistic]) -> Answers:
    """As an earlier run settled it, or measured now."""
    scope = sweep.scope
    own = [(slot, k) for k in range(len(statistics)) for slot in sweep.asked]
    places = [(work, *place) for work in scope.works for place in own]
    if (kept := scope.journal.recall(key)) is not None:
        sweep.pass_over()
        every = kept * len(scope.works) if len(kept) == len(own) else kept
        return dict(zip(places, map(float.fromhex, every), strict=True))
    found = _measured(sweep, statistics)
    if scope.is_worth_keeping:
        numbers = [found[place].hex() for place in places]
        first = numbers[: len(own)]
        scope.journal.settle(key, first if numbers == first * len(scope.works) else numbers)
    return found


def _measured(sweep: Sweep, statistics: Sequence[Statistic]) -> Answers:
    fold = statistics[0].fold
    if isinstance(fold, Total):
        found = totals(sweep, fold)
    elif isinstance(fold, Gram):
        found = products(sweep, fold)
    elif isinstance(fold, Extreme):
        found = extremes(sweep, fold)
    else:
        return selected(sweep, [each.fold for each in statistics if isinstance(each.fold, (Rank, ShareOf))])
    return {(*place, 0): number for place, number in found.items()}
