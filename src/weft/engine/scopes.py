"""Which tensors share their statistics, and which stand alone."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from weft.algorithms.program import Program
from weft.engine.binding import asked_by
from weft.engine.work import Work
from weft.kernels.dtypes import FLOAT64


def scopes(works: Sequence[Work]) -> tuple[list[list[Work]], list[Work]]:
    """Tensors that share their statistics, in groups; and those that stand alone.

    Tensors without statistics share a group, since nothing ties their tiles to an order.
    """
    groups: dict[object, list[Work]] = {}
    alone: list[Work] = []
    keys = _shared_by(works)
    for work in works:
        if work.program.stages and not work.program.is_about_the_model:
            alone.append(work)
        else:
            groups.setdefault(keys[id(work.program)], []).append(work)
    return list(groups.values()), alone


def _shared_by(works: Sequence[Work]) -> dict[int, Hashable]:
    """For each program, of which there are few, what tensors have in common that share a group."""
    firsts = {id(work.program): work for work in reversed(works)}
    asked: dict[object, set[str]] = {}
    for work in firsts.values():
        asked.setdefault(_kind(work), set()).update(_asked_by_statistics(work.program))
    files = {key: _asked_files(work, asked[_kind(work)]) for key, work in firsts.items()}
    return {
        key: (_kind(work), work.program.is_about_the_model, work.program.note, files[key])
        for key, work in firsts.items()
    }


def _kind(work: Work) -> tuple[Any, ...]:
    return work.method.population if work.method else ()


def _asked_by_statistics(program: Program) -> set[str]:
    return {name for stage in program.stages for name in asked_by(program, stage)}


def _asked_files(work: Work, asked: set[str]) -> tuple[object, ...]:
    """The files beside the checkpoints that statistics of its method are about: another file is another statistic."""
    sources = [work.program.sources[name] for name in sorted(asked & work.program.sources.keys())]
    every = [one for source in sources for one in (source if isinstance(source, tuple) else (source,))]
    return tuple(str(one) if isinstance(one, (str, os.PathLike)) else id(one) for one in every)


def in_one_precision(works: Sequence[Work]) -> tuple[Work, ...]:
    """The same tensors; a statistic over several of them is computed in the precision of the finest."""
    if all(work.compute is not FLOAT64 for work in works) or all(work.compute is FLOAT64 for work in works):
        return tuple(works)
    groups = [group for group in scopes(works)[0] if group[0].program.is_about_the_model]
    finer = {work for group in groups if any(w.compute is FLOAT64 for w in group) for work in group}
    return tuple(replace(work, compute=FLOAT64) if work in finer else work for work in works)
