"""Float8 weights as the numbers that they stand for: code by code, times their scale, as they are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint, TensorSpec
from weft.checkpoints.float8_blocks import Blocks, Grid, plain_grid, said_block, said_method
from weft.checkpoints.float8_names import Roles, is_float8, is_scale_format, roles_of
from weft.checkpoints.wrapping import Wrapping
from weft.errors import InputError, Problem, listed
from weft.kernels.decoding import decoded
from weft.kernels.dtypes import BFLOAT16, FLOAT32, DType, Kind
from weft.kernels.float8 import decode_blocks, table


@dataclass(frozen=True)
class Scaling:
    """How one weight is decoded.

    Attributes:
        scale: the tensor that multiplies it; None if its codes are the numbers.
        grid: which element of the scale multiplies which of the weight.
    """

    scale: str | None
    grid: Grid


class Dequantized(Wrapping):
    r"""The tensors of another checkpoint, its float8 weights decoded.

    A decoded weight is a float32 tensor,

    .. math::  W_{ij} = s_{\lfloor i / b \rfloor \lfloor j / c \rfloor} \, \mathrm{number}(code_{ij})

    with one scale s for each block of b rows and c columns, rounded to float32 first if it is float64. Every element
    has the same bits whatever range it is read in. The scales are not tensors of this checkpoint. Nothing is kept:
    every read fetches the codes and those scales that they need, and to look a code up takes no longer than to fetch a
    number that was kept, four times as large. All other tensors are read straight through.

    Args:
        inner: the checkpoint; it is closed with this one.
        scalings: how each float8 weight is decoded.
        dropped: tensors that only quantised inference needs.
    """

    def __init__(self, inner: Checkpoint, scalings: Mapping[str, Scaling], dropped: frozenset[str]) -> None:
        gone = dropped | {scaling.scale for scaling in scalings.values()}
        kept = {name: spec for name, spec in inner.tensors.items() if name not in gone}
        super().__init__(inner)
        self._scalings = dict(scalings)
        self._dropped = dropped
        self._thread = threading.local()
        self.label = inner.label
        self.path = inner.path
        self.stem = inner.stem
        self.metadata = inner.metadata
        self.tensors = MappingProxyType(
            {name: replace(spec, dtype=FLOAT32) if name in scalings else spec for name, spec in kept.items()}
        )
        pairs = {alias: first for alias, first in inner.tied.items() if alias in kept and first in kept}
        self.tied = MappingProxyType({a: first for a, first in pairs.items() if self._scale(a) == self._scale(first)})

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how this was read, in words."""
        bare = [name for name, scaling in self._scalings.items() if scaling.scale is None]
        notes = []
        if self._dropped:
            text = f"{len(self._dropped)} tensor(s) that only quantised inference needs are left out"
            notes.append(f"{self.label}: {text}: {listed(sorted(self._dropped))}")
        if 0 < len(bare) < len(self._scalings):
            notes.append(f"{self.label}: {len(bare)} float8 tensor(s) have no scale, others do: {listed(bare)}")
        return tuple(notes)

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; decodes float8 weights into the buffer."""
        scaling = self._scalings.get(name)
        if scaling is None:
            return self._inner.read(name, start, stop, buffer)
        values = buffer[: (stop - start) * FLOAT32.itemsize].view(FLOAT32.storage)
        if stop > start:
            codes = self._inner.read(name, start, stop, self._scratch(stop - start))
            first, last = scaling.grid.rows(start, stop)
            scales = self._scales(scaling, first, last)
            numbers = table(self._inner.tensors[name].dtype)
            decode_blocks(values, codes, start, scaling.grid.matrix, scaling.grid.block, scales, first, numbers)
        return values

    def file_of(self, name: str) -> str:
        """The file, and the format that the tensor has there."""
        where = self._inner.file_of(name)
        return f"{where}, there {self._inner.tensors[name].dtype}" if name in self._scalings else where

    def stored_dtype(self, name: str) -> DType:
        """The inner checkpoint's; bfloat16 for a decoded weight, whose three or four significant bits it holds."""
        return BFLOAT16 if name in self._scalings else self._inner.stored_dtype(name)

    @property
    def is_resident(self) -> bool:
        """False: reading again computes again."""
        return False

    def _scale(self, name: str) -> str | None:
        """The scale of a weight, by the first of its names."""
        scale = self._scalings[name].scale if name in self._scalings else None
        return self._inner.tied.get(scale, scale) if scale else None

    def _scales(self, scaling: Scaling, first: int, last: int) -> Array:
        """Some rows of scales, float32, shape [last - first, blocks in a row]."""
        columns = scaling.grid.columns
        if scaling.scale is None:
            return np.ones((last - first, columns), np.float32)
        dtype = self._inner.tensors[scaling.scale].dtype
        buffer = np.empty((last - first) * columns * dtype.itemsize, np.uint8)
        stored = self._inner.read(scaling.scale, first * columns, last * columns, buffer)
        numbers = decoded(stored, dtype) if dtype.kind is Kind.FLOAT else table(dtype)[stored]
        return numbers.astype(np.float32).reshape(-1, columns)

    def _scratch(self, size: int) -> Array:
        """Memory of this thread's own, for codes."""
        memory: Array | None = getattr(self._thread, "memory", None)
        if memory is None or memory.nbytes < size:
            memory = self._thread.memory = np.empty(size, np.uint8)
        return memory[:size]


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose float8 weights are the numbers that they stand for; the same one if it has none.

    A scale multiplies its weight: all of it, one row, one expert, or one block. The `config.json` beside the checkpoint
    says how large blocks are; otherwise the shapes do. Scales of activations are left out.

    Args:
        checkpoint: any. It is closed with the result; if an error is raised it stays open.

    Raises:
        InputError: with every scale that does not fit its weight, or cannot be understood.

    Example:
        >>> import ml_dtypes
        >>> from weft.checkpoints.memory import InMemory
        >>> codes = np.array([[1, 2], [3, 4]], ml_dtypes.float8_e4m3fn)
        >>> scale = np.array([[0.5], [10]], np.float32)
        >>> model = dequantized(InMemory({"fc.weight": codes, "fc.weight_scale": scale}, "a model"))
        >>> list(model.tensors), model.read("fc.weight", 0, 4, np.empty(16, np.uint8)).tolist()
        (['fc.weight'], [0.5, 1.0, 30.0, 40.0])
    """
    tensors = checkpoint.tensors
    if not any(is_float8(spec) for spec in tensors.values()):
        return checkpoint
    roles = roles_of(tensors, checkpoint.tied, checkpoint.label)
    said = said_block(checkpoint.path)
    grids = _grids(tensors, roles, said)
    problems = [*roles.problems, *_misfits(checkpoint, roles, grids, said), *_doubtful(checkpoint, roles)]
    if problems:
        raise InputError(problems)
    scalings = {name: Scaling(scale, grid) for name, scale in roles.scales.items() if (grid := grids[name])}
    return Dequantized(checkpoint, scalings, roles.dropped)


def _grids(tensors: Mapping[str, TensorSpec], roles: Roles, said: tuple[int, int] | None) -> dict[str, Grid | None]:
    """For every weight which scale multiplies which element; None where the scale does not fit."""
    shapes = {n: (tensors[n].shape, tensors[scale].shape if scale else ()) for n, scale in roles.scales.items()}
    plain = {name: plain_grid(*pair) for name, pair in shapes.items()}
    blocks = Blocks([shapes[name] for name, grid in plain.items() if grid is None], said)
    return {name: grid or blocks.grid(*shapes[name]) for name, grid in plain.items()}


def _misfits(
    checkpoint: Checkpoint, roles: Roles, grids: Mapping[str, Grid | None], said: tuple[int, int] | None
) -> Iterator[Problem]:
    for name, scale in roles.scales.items():
        weight, place = checkpoint.tensors[name], f"{checkpoint.label}: tensor {name!r}"
        if scale is None:
            if said and len(weight.shape) > 1:
                what = f"{place} is {weight} without a scale, but config.json says that blocks have scales"
                yield Problem(what, "download the model again; where it is right, remove weight_block_size there")
        elif not is_scale_format(checkpoint.tensors[scale]):
            what = f"{place} has the scale {scale!r}, which is {checkpoint.tensors[scale]}, not a float"
            yield Problem(what, "merge the 16-bit model that it was made from")
        elif grids[name] is None:
            yield _misfit(place, weight, scale, checkpoint.tensors[scale], said)


def _doubtful(checkpoint: Checkpoint, roles: Roles) -> Iterator[Problem]:
    """Scales whose shape fits, but not what is documented of the tool that made them.

    FBGEMM has a scale for each row of a matrix, but transposes the experts' matrices and not always their scales: which
    axis such a scale runs along cannot be told from the shapes. ModelOpt's FP8 has one scale for a weight.
    """
    method = said_method(checkpoint.path)
    for name, scale in roles.scales.items():
        weight = checkpoint.tensors[name]
        place = f"{checkpoint.label}: tensor {name!r} is {weight}"
        if method == "fbgemm_fp8" and scale and len(weight.shape) != 2:
            what = f"{place}; which of its axes the scale {scale!r} runs along in fbgemm_fp8 cannot be told"
            yield Problem(what, "merge the 16-bit model that it was made from")
        elif method == "modelopt" and scale and checkpoint.tensors[scale].size != 1:
            what = f"{place}; its scale {scale!r} has shape {list(checkpoint.tensors[scale].shape)}, but ModelOpt's FP8"
            yield Problem(f"{what} has one for all", "merge the 16-bit model that it was made from")


def _misfit(place: str, weight: TensorSpec, scale: str, found: TensorSpec, said: tuple[int, int] | None) -> Problem:
    blocks = f" in blocks of {list(said)}, as config.json says" if said else ""
    what = f"{place} has shape {list(weight.shape)}, to which its scale {scale!r} of shape {list(found.shape)} does not"
    remedy = "take weight and scale from one download of one model"
    if not said:
        remedy += "; if they are, say quantization_config: {weight_block_size: [rows, columns]} in its config.json"
    return Problem(f"{what} fit{blocks}", remedy)
