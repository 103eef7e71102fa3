"""Which tensor of the checkpoint a parameter of the loaded model is.

A library that loads a checkpoint may rename its tensors, put a prefix before them, stack the experts of a layer,
split or fuse matrices, turn them round. What it does is not guessed from its tables, which change with every version:
copies of the checkpoint whose numbers say where they come from are loaded in the same way, and read off. One says of
every number which tensor it belongs to; where that is not plain, two more say at which place in that tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import same_numbers
from weft.kernels.dtypes import Kind

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
Load = Callable[[Tensors], Any]
"""Makes a module of the architecture from tensors under the checkpoint's names, as the model itself was made.

What the tensors do not tell is 0.
"""

GRADIENTS = "@gradients"
"""Follows the name of a linear layer's weight in that of the Gram matrix of its output's gradients."""

_DIGIT = 4096
"""Places are told in two numbers, each exact in float32."""
_MOST_RUNS = 1 << 14
"""Pieces of a parameter that are kept as ranges; beyond, every number's place is kept."""

Places = Any
"""A slice, or a tensor of indices, into the flattened tensor."""


@dataclass(frozen=True)
class Piece:
    """Numbers of a parameter that belong to one tensor of the checkpoint.

    Attributes:
        parameter, tensor: which.
        source: their places in the parameter, flattened.
        target: their places in the tensor, flattened.
        count: how many there are.
    """

    parameter: str
    tensor: str
    source: Places
    target: Places
    count: int


@dataclass(frozen=True)
class Naming:
    """Where the numbers of a checkpoint's tensors are found in a module's parameters.

    Attributes:
        shapes: of the checkpoint's tensors.
        pieces: for each tensor that the module has as parameters, its pieces; they cover it.
        parameters: shapes of the module's parameters.
        homeless: parameters, or parts of them, that no tensor of the checkpoint holds.
        idle: floating-point tensors of the checkpoint that are no parameter of the module.
    """

    shapes: Mapping[str, tuple[int, ...]]
    pieces: Mapping[str, tuple[Piece, ...]]
    parameters: Mapping[str, tuple[int, ...]]
    homeless: tuple[str, ...]
    idle: tuple[str, ...]

    def named(self, statistics: Tensors) -> dict[str, tuple[str, ...]]:
        """For each tensor of the checkpoint that can be put together from these, by parameter: the parameters."""
        found = {name: tuple(dict.fromkeys(p.parameter for p in pieces)) for name, pieces in self.pieces.items()}
        return {name: needed for name, needed in found.items() if all(part in statistics for part in needed)}

    def assembled(self, name: str, statistics: Tensors) -> Tensor:
        """What is known of one tensor's numbers, in its shape.

        Args:
            name: the tensor of the checkpoint.
            statistics: by parameter, in the parameters' shapes.
        """
        pieces = self.pieces[name]
        first = statistics[pieces[0].parameter]
        if len(pieces) == 1 and _is_whole(pieces[0], first.numel()):
            return first.reshape(self.shapes[name])
        made = first.new_zeros(prod(self.shapes[name]))
        for piece in pieces:
            made[piece.target] = statistics[piece.parameter].reshape(-1)[piece.source]
        return made.reshape(self.shapes[name])

    def rows(self, name: str) -> tuple[str, int, int] | None:
        """The parameter that holds a matrix of the checkpoint in rows of its own, and which rows; else None.

        Such a matrix belongs to a linear layer that has the same input, and this part of its output.
        """
        shape, pieces = self.shapes[name], self.pieces[name]
        if len(pieces) != 1 or len(shape) != 2:
            return None
        piece, whole = pieces[0], self.parameters[pieces[0].parameter]
        aligned = len(whole) == 2 and whole[1] == shape[1] and isinstance(piece.source, slice)
        if not aligned or piece.source.start % shape[1]:
            return None
        first = piece.source.start // shape[1]
        return piece.parameter, first, first + shape[0]


def trace(checkpoint: Checkpoint, module: Any, load: Load) -> Naming:
    """Find out which tensor each parameter is.

    Args:
        checkpoint: the file or folder that the module was loaded from.
        module: the loaded model.
        load: loads other numbers in the same way.
    """
    return _Tracing(checkpoint, module, load).naming()


class _Tracing:
    def __init__(self, checkpoint: Checkpoint, module: Any, load: Load) -> None:
        self._checkpoint = checkpoint
        self._load = load
        self._specs = {n: s for n, s in checkpoint.tensors.items() if s.dtype.kind is Kind.FLOAT and s.size}
        self._names = tuple(self._specs)
        self._number = {name: k for k, name in enumerate(self._names, 1)}
        self._parameters: dict[str, Tensor] = dict(module.named_parameters())
        first = {id(parameter): name for name, parameter in self._parameters.items()}
        self._aliases = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}

    def naming(self) -> Naming:
        numbers = self._probed(self._numbered())
        plain = {own for own in self._parameters if own in self._specs and self._is_plain(own, numbers[own])}
        pieces = [Piece(n, n, slice(0, c), slice(0, c), c) for n in plain for c in (self._specs[n].size,)]
        homeless: list[str] = []
        others = [own for own in self._parameters if own not in plain]
        known = {own: numbers[own].reshape(-1).long() for own in others}
        doubtful = [own for own in others if int(known[own].max()) > 0]
        homeless += [own for own in others if own not in set(doubtful)]
        places = self._places(doubtful, known) if doubtful else {}
        for own in doubtful:
            found = list(self._pieces(own, known[own], places[own]))
            pieces += found
            homeless += [own] if not found or bool((known[own] == 0).any()) else []
        return self._assembled(pieces, homeless)

    def _assembled(self, pieces: Sequence[Piece], homeless: Sequence[str]) -> Naming:
        """Only tensors that are covered wholly; twins of these are the same."""
        found: dict[str, list[Piece]] = {}
        for piece in pieces:
            found.setdefault(piece.tensor, []).append(piece)
        whole = {n: tuple(p) for n, p in found.items() if sum(piece.count for piece in p) == self._specs[n].size}
        homeless = [*homeless, *(p.parameter for n, own in found.items() if n not in whole for p in own)]
        for name in self._names:
            twin = None if name in whole else self._twin(name, whole)
            if twin is not None:
                whole[name] = whole[twin]
        ordered = {name: whole[name] for name in self._names if name in whole}
        return Naming(
            {name: spec.shape for name, spec in self._specs.items()},
            ordered,
            {own: tuple(parameter.shape) for own, parameter in self._parameters.items()},
            tuple(dict.fromkeys(homeless)),
            tuple(name for name in self._names if name not in ordered),
        )

    def _twin(self, name: str, whole: Mapping[str, Sequence[Piece]]) -> str | None:
        """A traced tensor that is tied to this one: the module says so, or they are matrices with the same bytes."""
        spec, own = self._specs[name], self._aliases.get(name)
        for other, pieces in whole.items():
            is_told = own is not None and {piece.parameter for piece in pieces} == {own}
            alike = self._specs[other].shape == spec.shape and (is_told or len(spec.shape) > 1)
            if alike and same_numbers(self._checkpoint, name, self._checkpoint, other):
                return other
        return None

    def _numbered(self) -> dict[str, Tensor]:
        """Every number says which tensor it belongs to."""
        import torch

        return {n: torch.tensor(float(k)).expand(self._specs[n].shape) for n, k in self._number.items()}

    def _probed(self, tensors: Tensors) -> dict[str, Tensor]:
        """The parameters that a module made from these has; numbers that came from nowhere are 0."""
        loaded = dict(self._load(tensors).named_parameters(remove_duplicate=False))
        return {own: loaded[own].detach().cpu() for own in self._parameters}

    def _is_plain(self, own: str, numbers: Tensor) -> bool:
        """Whether a parameter has the name, the shape and the numbers of a tensor."""
        import torch

        from weft.statistics.tensors import read_tensor

        spec, parameter = self._specs[own], self._parameters[own]
        if tuple(parameter.shape) != spec.shape or not bool((numbers == self._number[own]).all()):
            return False
        return bool(torch.equal(read_tensor(self._checkpoint, own).to(parameter.dtype), parameter.detach().cpu()))

    def _places(self, wanted: Sequence[str], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For every number of these parameters its place in its tensor."""
        involved = {int(k) - 1 for own in wanted for k in known[own].unique() if k > 0}
        names = {self._names[k] for k in involved}
        high = self._probed(self._indexed(names, lambda index: index // _DIGIT))
        low = self._probed(self._indexed(names, lambda index: index % _DIGIT))
        return {own: (high[own].double() * _DIGIT + low[own].double()).reshape(-1).long() for own in wanted}

    def _indexed(self, names: set[str], digit: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        import torch

        made = {name: torch.zeros(()).expand(spec.shape) for name, spec in self._specs.items()}
        for name in names:
            made[name] = digit(torch.arange(self._specs[name].size)).float().reshape(self._specs[name].shape)
        return made

    def _pieces(self, own: str, numbers: Tensor, places: Tensor) -> Iterator[Piece]:
        """The parts of one parameter: stretches that follow each other in both, or single numbers where there are many.

        A parameter that is computed from the numbers, instead of being made up of them, has none.
        """
        if not self._fits(numbers, places):
            return
        starts = _starts(numbers, places)
        if len(starts) > _MOST_RUNS:
            yield from self._scattered(own, numbers, places)
            return
        for start, end in zip(starts, [*starts[1:], numbers.numel()], strict=True):
            number, at, count = int(numbers[start]), int(places[start]), end - start
            if number:
                tensor = self._names[number - 1]
                yield Piece(own, tensor, slice(start, end), slice(at, at + count), count)

    def _scattered(self, own: str, numbers: Tensor, places: Tensor) -> Iterator[Piece]:
        for number in numbers.unique().tolist():
            source = (numbers == number).nonzero().reshape(-1)
            if number:
                yield Piece(own, self._names[number - 1], source, places[source], len(source))

    def _fits(self, numbers: Tensor, places: Tensor) -> bool:
        """Whether numbers and places are those of tensors there are, and no place is used twice."""
        import torch

        if int(numbers.min()) < 0 or int(numbers.max()) > len(self._names) or int(places.min()) < 0:
            return False
        sizes = torch.tensor([1 << 62, *(spec.size for spec in self._specs.values())])
        held = numbers > 0
        if bool((places >= sizes[numbers])[held].any()):
            return False
        offsets = torch.cat([torch.zeros(2, dtype=torch.long), sizes[1:].cumsum(0)])[: len(sizes)]
        unique = (offsets[numbers] + places)[held].unique()
        return int(unique.numel()) == int(held.sum())


def _is_whole(piece: Piece, count: int) -> bool:
    return piece.source == slice(0, count) == piece.target if isinstance(piece.source, slice) else False


def _starts(numbers: Tensor, places: Tensor) -> list[int]:
    """Where a stretch begins: the tensor changes, or the place does not go on."""
    broken = (numbers[1:] != numbers[:-1]) | (places[1:] != places[:-1] + 1)
    return [0, *(broken.nonzero().reshape(-1) + 1).tolist()]
