"""A base and a LoRA adapter as one checkpoint: the adapted weights are computed as they are read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from weft.checkpoints.checkpoint import Array, Checkpoint
from weft.checkpoints.lora import Change, changes_of
from weft.checkpoints.lora_config import CONFIG, read_config
from weft.checkpoints.lora_ties import kept_together, lost_heads, ties_left
from weft.checkpoints.pickled import PickledCheckpoint
from weft.checkpoints.safetensors import SafetensorsCheckpoint
from weft.checkpoints.sources import SourceFile
from weft.errors import InputError, listed
from weft.kernels.dtypes import FLOAT32, FLOAT64, DType
from weft.kernels.lowrank import (
    add_low_rank,
    add_squares_of_columns,
    add_squares_of_rows,
    scale_columns,
    scale_rows,
    widening,
)

_FACTORS = 16
"""For how many tensors the decoded factors are kept."""

_CHUNK = 1 << 18
"""Elements that are read at once to measure the lengths of a tensor's rows; always the same, and so are the sums."""


class Adapted(Checkpoint):
    r"""The tensors of a base with those of an adapter added or put in their place.

    With B A the product of the adapter's factors and s its scale, a changed weight is

    .. math::  W' = W + s B A            \text{or, for DoRA,}  \qquad
               W' = m \frac{W + s B A}{\lVert W + s B A \rVert}

    with one length m, and one norm over the inputs, for each output (0 where the norm is 0). It is a float32 tensor,
    or float64 if the base or a factor is, and every element has the same bits whatever range it is read in: see
    `kernels/lowrank.py`. All other tensors are read straight through. Nothing is kept but the factors of the tensors
    that were read last, and for DoRA one number for each output, found when a tensor is first read.

    A merge stores its result in the base's formats; a recipe without a base stores adapted tensors in the format that
    is asked for, or in float32. `stored_dtype` says what the base stores.

    Args:
        base: the checkpoint that is adapted; it is closed with this one.
        adapter: the adapter's tensors; likewise.
        changes: what is changed, by the base's names.
        tied: which names still share their numbers with an earlier one.
        label: what to call it in messages.
    """

    def __init__(
        self,
        base: Checkpoint,
        adapter: Checkpoint,
        changes: Mapping[str, Change],
        tied: Mapping[str, str],
        label: str,
    ) -> None:
        self.label = label
        self.path = base.path
        self.stem = base.stem
        self.metadata = base.metadata
        self.tied = MappingProxyType(dict(tied))
        self.tensors = MappingProxyType({**base.tensors, **{name: change.spec for name, change in changes.items()}})
        self._base = base
        self._adapter = adapter
        self._config = (SourceFile.at(adapter.path / CONFIG),) if adapter.path and adapter.path.is_dir() else ()
        self._changes = dict(changes)
        self._products = {name: change.product for name, change in changes.items() if change.product}
        self._thread = threading.local()
        self._factors = lru_cache(maxsize=_FACTORS)(self._read_factors)
        self._lengths: dict[str, Array] = {}
        self._locks = {name: threading.Lock() for name, product in self._products.items() if product.magnitude}

    def read(self, name: str, start: int, stop: int, buffer: Array) -> Array:
        """See `Checkpoint.read`; computes adapted tensors into the buffer."""
        change = self._changes.get(name)
        if change is None:
            return self._base.read(name, start, stop, buffer)
        if change.source and not change.product:
            return self._adapter.read(change.source, start, stop, buffer)
        dtype = change.spec.dtype
        values = buffer[: (stop - start) * dtype.itemsize].view(dtype.storage)
        self._sum(name, start, stop, values)
        product = self._products[name]
        if product.magnitude:
            scale = scale_columns if product.transposed else scale_rows
            scale(values, start, product.columns, self._length_factors(name, product.magnitude))
        return values

    @property
    def notes(self) -> tuple[str, ...]:
        """As the base."""
        return self._base.notes

    def stored_dtype(self, name: str) -> DType:
        """The format in which a tensor is stored: the base's, or the adapter's for one that only it has."""
        change = self._changes.get(name)
        if name in self._base.tensors:
            return self._base.stored_dtype(name)
        return self._adapter.tensors[change.source].dtype if change and change.source else self.tensors[name].dtype

    def file_of(self, name: str) -> str:
        """The base's file and the adapter's, as far as each has a part in the tensor."""
        source = self._changes[name].source if name in self._changes else None
        files = [self._adapter.file_of(source) if source else self._base.file_of(name)]
        if name in self._products:
            files.append(self._adapter.file_of(self._products[name].b))
        return " + ".join(dict.fromkeys(files))

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The base's and the adapter's."""
        return (*self._base.sources, *self._adapter.sources, *self._config)

    @property
    def is_resident(self) -> bool:
        """False: reading again computes again."""
        return False

    @property
    def is_computed(self) -> bool:
        """True: products are added."""
        return True

    def close(self) -> None:
        """Close the base and the adapter."""
        self._factors.cache_clear()
        self._base.close()
        self._adapter.close()

    def _sum(self, name: str, start: int, stop: int, values: Array) -> None:
        """The weight and the product, before any scaling to a length."""
        source = self._changes[name].source
        self._widened(self._adapter if source else self._base, source or name, start, stop, values)
        add_low_rank(values, start, *self._factors(name), values.dtype.type(self._products[name].scale))

    def _widened(self, checkpoint: Checkpoint, name: str, start: int, stop: int, values: Array) -> None:
        stored = checkpoint.tensors[name].dtype
        raw = checkpoint.read(name, start, stop, self._scratch((stop - start) * stored.itemsize))
        widening(stored, FLOAT64 if values.itemsize == 8 else FLOAT32)(raw, values)

    def _scratch(self, size: int) -> Array:
        """Memory of this thread's own, for what is stored."""
        memory: Array | None = getattr(self._thread, "memory", None)
        if memory is None or memory.nbytes < size:
            memory = self._thread.memory = np.empty(size, np.uint8)
        return memory[:size]

    def _read_factors(self, name: str) -> tuple[Array, Array]:
        """The two matrices whose product is added: shapes [rows, rank] and [rank, columns]."""
        product, dtype = self._products[name], self.tensors[name].dtype
        b = self._whole(product.b, dtype).reshape(-1, product.rank)
        a = self._whole(product.a, dtype).reshape(product.rank, -1) if product.a else np.ones((1, 1), dtype.storage)
        left, right = (a.T, b.T) if product.transposed else (b, a)
        return np.ascontiguousarray(left), np.ascontiguousarray(right)

    def _whole(self, name: str, dtype: DType) -> Array:
        """A tensor of the adapter, decoded."""
        values = np.empty(self._adapter.tensors[name].size, dtype.storage)
        self._widened(self._adapter, name, 0, len(values), values)
        return values

    def _length_factors(self, name: str, magnitude: str) -> Array:
        """What every output is multiplied by, so that it has the length that was learned; measured once."""
        with self._locks[name]:
            if name not in self._lengths:
                dtype, norms = self.tensors[name].dtype, np.sqrt(self._squares(name))
                lengths = self._whole(magnitude, dtype).astype(np.float64)
                factors = np.divide(lengths, norms, out=np.zeros_like(norms), where=norms != 0)
                self._lengths[name] = factors.astype(dtype.storage)
        return self._lengths[name]

    def _squares(self, name: str) -> Array:
        """The sum of the squares of each output's weights, float64, shape [outputs]."""
        spec, product = self.tensors[name], self._products[name]
        sums = np.zeros(product.columns if product.transposed else spec.shape[0], np.float64)
        add_squares = add_squares_of_columns if product.transposed else add_squares_of_rows
        values = np.empty(min(spec.size, _CHUNK), spec.dtype.storage)
        for start in range(0, spec.size, _CHUNK):
            part = values[: min(_CHUNK, spec.size - start)]
            self._sum(name, start, start + len(part), part)
            add_squares(part, start, product.columns, sums)
        return sums


def open_adapted(base: Checkpoint, adapter: Path, label: str, weights: Checkpoint | None = None) -> Checkpoint:
    """A base with a LoRA adapter added as it is read: no merged copy is made, on disk or in memory.

    rsLoRA, ranks and scales by module, DoRA, adapted embeddings and convolutions, saved modules and biases are
    understood. The adapter's names are found in the base also if one leading part, such as `model.`, is lacking or too
    many.

    Args:
        base: the model that the adapter was trained on, in float formats. It is closed with the result; if an error is
            raised it stays open.
        adapter: a folder as peft saves it: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
        label: what to call the result in messages.
        weights: the adapter's tensors, if they are not in that folder; closed with the result and on an error.

    Raises:
        InputError: if it is no LoRA adapter, of a kind that cannot be added, or does not fit the base: with every
            problem found.

    Example:
        >>> import json, tempfile
        >>> from safetensors.numpy import save_file
        >>> from weft.checkpoints.memory import InMemory
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2}))
        >>> factors = {"A": np.array([[1, 10]], np.float32), "B": np.array([[1], [2]], np.float32)}
        >>> save_file({f"fc.lora_{k}.weight": v for k, v in factors.items()}, folder / "adapter_model.safetensors")
        >>> model = open_adapted(InMemory({"fc.weight": np.ones((2, 2), np.float32)}, "base"), folder, "adapted")
        >>> model.read("fc.weight", 0, 4, np.empty(16, np.uint8)).tolist()
        [3.0, 21.0, 5.0, 41.0]
    """
    folder = adapter if adapter.is_dir() else adapter.parent
    config = read_config(_config_file(adapter, folder))
    weights = weights or _open_weights(folder)
    try:
        changes = kept_together(changes_of(config, weights, base), config, base)
        problems = list(lost_heads(changes, config, base))
        if problems:
            raise InputError(problems)
    except InputError:
        weights.close()
        raise
    return Adapted(base, weights, changes, ties_left(changes, config, base), label)


def _config_file(adapter: Path, folder: Path) -> Path:
    if not adapter.exists():
        raise InputError(f"{adapter}: no such folder", "name the folder that peft's save_pretrained wrote")
    if not (folder / CONFIG).is_file():
        what = f"{folder}: holds no {CONFIG}; it holds: {_holds(folder)}"
        raise InputError(what, "name the folder that peft's save_pretrained wrote")
    return folder / CONFIG


def _open_weights(folder: Path) -> Checkpoint:
    if (folder / "adapter_model.safetensors").is_file():
        return SafetensorsCheckpoint(folder, [folder / "adapter_model.safetensors"])
    if (folder / "adapter_model.bin").is_file():
        return PickledCheckpoint(folder, [folder / "adapter_model.bin"])
    what = f"{folder}: holds no adapter_model.safetensors; it holds: {_holds(folder)}"
    raise InputError(what, "download the adapter's weights")


def _holds(folder: Path) -> str:
    return listed(sorted(p.name for p in folder.iterdir())) or "nothing"
