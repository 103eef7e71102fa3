"""Which of a program's statistics one pass finds together: places in the order of one and the same expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weft.algorithms.program import Program, Rank, Stage, Statistic


def groups(program: Program) -> list[list[Stage]]:
    """The stages in order, those together that one pass finds: ranks of one expression that follow each other.

    Example:
        >>> from weft.algorithms.breadcrumbs import Breadcrumbs
        >>> program = Breadcrumbs.resolved(["a"], common={"scope": "tensor"}).program()
        >>> [[stage.statistic.name for stage in group] for group in groups(program)]
        [['before_low'], ['before_high'], ['before_above', 'before_up_to']]
    """
    made: list[list[Stage]] = []
    for stage in program.stages:
        if made and _is_found_with(made[-1], stage):
            made[-1].append(stage)
        else:
            made.append([stage])
    return made


def _is_found_with(group: Sequence[Stage], stage: Stage) -> bool:
    first, own = group[0].statistic, stage.statistic
    if not (isinstance(first, Statistic) and isinstance(own, Statistic)):
        return False
    if not (isinstance(first.fold, Rank) and isinstance(own.fold, Rank)) or first.fold.signed != own.fold.signed:
        return False
    follows = stage.prefix + own.fold.by in {other.statistic.name for other in group}
    return not follows and replace(stage, statistic=replace(own, name=first.name, fold=first.fold)) == group[0]
