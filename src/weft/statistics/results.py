"""What was measured, as the tensors of a file: under the checkpoint's names, in its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Protocol

from weft.algorithms.apl import Partition, part_of
from weft.checkpoints.checkpoint import TensorSpec
from weft.errors import listed
from weft.statistics.naming import GRADIENTS, Naming
from weft.statistics.tensors import spec_of

if TYPE_CHECKING:
    from torch import Tensor

    from weft.statistics.estimating import Estimator


def counted(estimator: Estimator) -> dict[str, int]:
    """How many vectors each layer has seen, by its weight: not every layer sees every token."""
    from weft.statistics.factors import ROWS

    return {name.removesuffix(ROWS): int(t) for name, t in estimator.sums().items() if name.endswith(ROWS)}


class Statistics(Protocol):
    """What was measured, ready to be written.

    Attributes:
        specs: the tensors.
        norm: the length of all of it, if that means something.
        rows: for each tensor how many vectors it is a mean over, where that is not the number of examples.
        remarks: what was left out, in words.
    """

    specs: tuple[TensorSpec, ...]
    norm: float | None
    rows: Mapping[str, int]
    remarks: tuple[str, ...]

    def tensor(self, name: str) -> Tensor:
        """One of them."""


class Parameterwise:
    """A number for every parameter, such as Fisher information, under the checkpoint's names.

    Args:
        naming: which tensor each parameter is.
        means: by parameter.

    Attributes:
        specs: the tensors.
        norm: the length of all of it; a parameter counts once, whatever its names.
        rows: none: every tensor is a mean over the examples.
        remarks: what was left out, in words.
    """

    def __init__(self, naming: Naming, means: Mapping[str, Tensor]) -> None:
        self._naming = naming
        self._means = {name: tensor.detach().float().cpu() for name, tensor in means.items()}
        named = naming.named(self._means)
        self.specs: tuple[TensorSpec, ...] = tuple(
            replace(spec_of(name, self._means[parts[0]]), shape=naming.shapes[name]) for name, parts in named.items()
        )
        counted = {part for parts in named.values() for part in parts}
        self.norm: float | None = sqrt(sum(float(self._means[part].double().square().sum()) for part in counted))
        self.rows: Mapping[str, int] = {}
        self.remarks: tuple[str, ...] = ()

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return self._naming.assembled(name, self._means)


class Grams:
    """Gram matrices, each under the name of the weight that it belongs to.

    Args:
        naming: which tensor each parameter is.
        means: by the weight's parameter, and the same with `@gradients`.
        counts: by the weight's parameter, how many vectors its layer has seen.

    Attributes:
        specs: the matrices.
        norm: None.
        rows: for each matrix how many vectors it is a mean over.
        remarks: what was left out, in words.
    """

    norm: float | None = None

    def __init__(self, naming: Naming, means: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        self._means = {name: tensor.detach().float().cpu() for name, tensor in means.items()}
        self._places: dict[str, tuple[str, slice]] = {}
        for name in naming.pieces:
            found = naming.rows(name)
            if found is not None:
                parameter, first, last = found
                self._add(name, parameter, slice(None))
                self._add(name + GRADIENTS, parameter + GRADIENTS, slice(first, last))
        self.specs: tuple[TensorSpec, ...] = tuple(spec_of(name, self.tensor(name)) for name in self._places)
        self.rows: Mapping[str, int] = {
            name: counts[source.removesuffix(GRADIENTS)] for name, (source, _) in self._places.items()
        }
        used = {source for source, _ in self._places.values()}
        left = [name for name in self._means if name not in used]
        self.remarks: tuple[str, ...] = (f"layers without a matrix in the checkpoint: {listed(left)}",) if left else ()

    def _add(self, name: str, source: str, rows: slice) -> None:
        if source in self._means:
            self._places[name] = (source, rows)

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        source, rows = self._places[name]
        return self._means[source][rows, rows]


class Partwise:
    """One number for every part of a model: each of the part's tensors holds it, as a tensor without dimensions.

    Args:
        naming: which tensors the model has.
        means: by part.
        partition: what the parts are.

    Attributes:
        specs: the tensors.
        norm: None.
        rows: none: every number is a mean over the examples.
        remarks: none.
    """

    norm: float | None = None
    remarks: tuple[str, ...] = ()

    def __init__(self, naming: Naming, means: Mapping[str, Tensor], partition: Partition) -> None:
        self._means = {name: tensor.detach().float().cpu() for name, tensor in means.items()}
        self._partition: Partition = partition
        self.specs: tuple[TensorSpec, ...] = tuple(spec_of(name, self.tensor(name)) for name in naming.pieces)
        self.rows: Mapping[str, int] = {}

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return self._means[part_of(name, self._partition)]
