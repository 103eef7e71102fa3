"""The methods by name. Complete when it is imported."""

from __future__ import annotations

from types import MappingProxyType

from weft.algorithms.breadcrumbs import Breadcrumbs
from weft.algorithms.correction import Correction
from weft.algorithms.dare import Dare
from weft.algorithms.della import Della
from weft.algorithms.dppa import Dppa
from weft.algorithms.fisher import Fisher
from weft.algorithms.iso_c import IsoC
from weft.algorithms.iso_cts import IsoCts
from weft.algorithms.linear import Linear
from weft.algorithms.mats import Mats
from weft.algorithms.method import Method
from weft.algorithms.pcb import Pcb
from weft.algorithms.regmean import RegMean
from weft.algorithms.sparsifier import Sparsifier
from weft.algorithms.svc import Svc
from weft.algorithms.task_arithmetic import TaskArithmetic
from weft.algorithms.ties import Ties
from weft.algorithms.tsv import Tsv
from weft.algorithms.wudi import Wudi
from weft.errors import InputError, nearest

METHODS: MappingProxyType[str, type[Method]] = MappingProxyType(
    {
        method.name: method
        for method in (
            Linear,
            TaskArithmetic,
            Ties,
            Pcb,
            Fisher,
            RegMean,
            Mats,
            Dare,
            Della,
            Breadcrumbs,
            Dppa,
            Tsv,
            IsoC,
            IsoCts,
            Wudi,
            Svc,
        )
    }
)


def methods() -> tuple[str, ...]:
    """The names of all methods.

    Example:
        >>> "ties" in methods()
        True
    """
    return tuple(METHODS)


def method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        InputError: with the nearest name, if there is none.

    Example:
        >>> method("ties").model_fields["density"].default
        0.2
    """
    if name not in METHODS:
        raise InputError(
            f"there is no method {name!r}", nearest(name.lower(), METHODS) or f"the methods are {', '.join(METHODS)}"
        )
    return METHODS[name]


def sparsifier(name: str) -> type[Sparsifier]:
    """What may change task vectors `before:` another method, by name.

    Raises:
        InputError: if there is none of this name, or it merges instead.
    """
    known = {kind.name: kind for kind in METHODS.values() if issubclass(kind, Sparsifier)}
    if name not in known:
        what = f"before: {name} merges models" if name in METHODS else f"before: there is no sparsifier {name!r}"
        raise InputError(what, nearest(name.lower(), known) or f"before a method may come {', '.join(known)}")
    return known[name]


def correction(name: str) -> type[Correction]:
    """What may correct merged tensors `after:` another method, by name.

    Raises:
        InputError: if there is none of this name, or it merges instead.
    """
    known = {kind.name: kind for kind in METHODS.values() if issubclass(kind, Correction)}
    if name not in known:
        what = f"after: {name} merges models" if name in METHODS else f"after: there is no correction {name!r}"
        raise InputError(what, nearest(name.lower(), known) or f"after a method may come {', '.join(known)}")
    return known[name]
