"""The methods by name: those of this package, complete when it is imported, and those that other packages bring."""

from __future__ import annotations

from types import MappingProxyType
from typing import TypeVar

from weft.algorithms import plugins
from weft.algorithms.apl import Apl
from weft.algorithms.arcee_fusion import ArceeFusion
from weft.algorithms.breadcrumbs import Breadcrumbs
from weft.algorithms.consensus import Consensus
from weft.algorithms.correction import Correction
from weft.algorithms.dare import Dare
from weft.algorithms.della import Della
from weft.algorithms.dppa import Dppa
from weft.algorithms.fisher import Fisher
from weft.algorithms.iso_c import IsoC
from weft.algorithms.iso_cts import IsoCts
from weft.algorithms.karcher import Karcher
from weft.algorithms.linear import Linear
from weft.algorithms.mats import Mats
from weft.algorithms.median import Median
from weft.algorithms.method import Method
from weft.algorithms.model_stock import ModelStock
from weft.algorithms.nearswap import Nearswap
from weft.algorithms.passthrough import Passthrough
from weft.algorithms.pcb import Pcb
from weft.algorithms.ram import Ram
from weft.algorithms.ram_plus import RamPlus
from weft.algorithms.regmean import RegMean
from weft.algorithms.sce import Sce
from weft.algorithms.slerp import Slerp
from weft.algorithms.sparsifier import Sparsifier
from weft.algorithms.svc import Svc
from weft.algorithms.task_arithmetic import TaskArithmetic
from weft.algorithms.ties import Ties
from weft.algorithms.tsv import Tsv
from weft.algorithms.wudi import Wudi
from weft.errors import InputError, Problem, nearest

S = TypeVar("S", Sparsifier, Correction)

METHODS: MappingProxyType[str, type[Method]] = MappingProxyType(
    {
        method.name: method
        for method in (
            Linear,
            Median,
            TaskArithmetic,
            Ties,
            Consensus,
            Pcb,
            Sce,
            Ram,
            RamPlus,
            Nearswap,
            ArceeFusion,
            Slerp,
            Karcher,
            ModelStock,
            Fisher,
            RegMean,
            Mats,
            Dare,
            Della,
            Breadcrumbs,
            Dppa,
            Apl,
            Tsv,
            IsoC,
            IsoCts,
            Wudi,
            Svc,
            Passthrough,
        )
    }
)
"""Those of this package."""


def methods() -> tuple[str, ...]:
    """The names of all methods, those of other packages last.

    Example:
        >>> "ties" in methods()
        True
    """
    return (*METHODS, *(name for name in plugins.names() if name not in METHODS))


def method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        InputError: with the nearest name, if there is none; if it is another package's and cannot be loaded.

    Example:
        >>> method("ties").model_fields["density"].default
        0.2
    """
    if name in METHODS:
        return METHODS[name]
    if name in plugins.names():
        return plugins.loaded(name)
    remedy = nearest(name.lower(), methods()) or f"the methods are {', '.join(methods())}"
    raise InputError(f"there is no method {name!r}", remedy)


def usable() -> tuple[dict[str, type[Method]], list[Problem]]:
    """Every method that can be loaded, by name, and what is wrong with those that other packages bring."""
    found = dict(METHODS)
    problems: list[Problem] = []
    for name in plugins.names():
        try:
            if name in METHODS:
                raise InputError(*plugins.shadowed(name))
            found[name] = plugins.loaded(name)
        except InputError as error:
            problems += error.problems
    return found, problems


def sparsifier(name: str) -> type[Sparsifier]:
    """What may change task vectors `before:` another method, by name.

    Raises:
        InputError: if there is none of this name, or it merges instead.
    """
    return _step(name, Sparsifier, "before", "sparsifier")  # type: ignore[type-abstract]  # asked about, never made


def correction(name: str) -> type[Correction]:
    """What may correct merged tensors `after:` another method, by name.

    Raises:
        InputError: if there is none of this name, or it merges instead.
    """
    return _step(name, Correction, "after", "correction")  # type: ignore[type-abstract]  # asked about, never made


def _step(name: str, role: type[S], place: str, called: str) -> type[S]:
    kind = method(name) if name in methods() else None
    if kind is not None and issubclass(kind, role):
        return kind
    known = [other.name for other in METHODS.values() if issubclass(other, role)]
    what = f"{place}: {name} merges models" if kind else f"{place}: there is no {called} {name!r}"
    raise InputError(what, nearest(name.lower(), known) or f"{place} a method may come {', '.join(known)}")
