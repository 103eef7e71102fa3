"""Which tensors a LoRA adapter changes, and how; decided from names, shapes and formats alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.checkpoints.lora_config import MERGE_FIRST, LoraConfig
from weft.checkpoints.lora_names import Module, contents_of
from weft.errors import InputError, Problem, nearest
from weft.kernels.dtypes import Kind, compute_dtype

_OTHER_BASE = "name the base that the adapter was trained on"
_INCOMPLETE = "the adapter is incomplete: save or download it again"
_STRANGERS = "the adapter's two files do not belong together: save or download it again"


@dataclass(frozen=True)
class Product:
    """What is added to a tensor: `scale * B @ A`.

    Attributes:
        a: the adapter's tensor A, shape [rank, inputs...]; None stands for the number 1.
        b: the adapter's tensor B, shape [outputs, rank] with ones after it.
        rank: of the product.
        scale: what it is multiplied by.
        columns: of the changed tensor as a matrix: what follows its first dimension, flattened.
        transposed: whether that matrix is stored inputs by outputs.
        magnitude: the adapter's tensor of lengths, shape [outputs]: the weights of every output are then scaled to it.
    """

    a: str | None
    b: str
    rank: int
    scale: float
    columns: int
    transposed: bool
    magnitude: str | None = None


@dataclass(frozen=True)
class Change:
    """A tensor that an adapter changes.

    Attributes:
        spec: the changed tensor, as it is read.
        source: the adapter's tensor that takes the place of the base's; None keeps the base's.
        product: what is added to it.
    """

    spec: TensorSpec
    source: str | None = None
    product: Product | None = None


class _MisfitError(Exception):
    """A tensor of the adapter does not fit."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.problem = Problem(what, remedy)


def changes_of(config: LoraConfig, adapter: Checkpoint, base: Checkpoint) -> dict[str, Change]:
    """What an adapter does to a base.

    Args:
        config: of the adapter.
        adapter: its tensors, as peft names them.
        base: the checkpoint that it was trained on, or one like it.

    Returns:
        By the base's names, every tensor that is changed, replaced or new.

    Raises:
        InputError: with every tensor that has no place or does not fit.
    """
    return _Matching(config, adapter, base).changes()


class _Matching:
    def __init__(self, config: LoraConfig, adapter: Checkpoint, base: Checkpoint) -> None:
        self._config = config
        self._adapter = adapter
        self._base = base
        self._contents = contents_of(adapter, base)
        self._changes: dict[str, Change] = {}
        self._problems: list[Problem] = []

    def changes(self) -> dict[str, Change]:
        for name, given in self._contents.whole.items():
            self._attempt(self._replace, name, self._adapter.tensors[given])
        for name, module in self._contents.modules.items():
            self._attempt(self._add, name, module)
            self._attempt(self._shift, name, module)
        self._problems += self._unsettled_squares()
        if self._problems:
            raise InputError(self._problems)
        return self._changes

    def _attempt(self, step: Callable[..., None], *arguments: object) -> None:
        try:
            step(*arguments)
        except _MisfitError as misfit:
            self._problems.append(misfit.problem)

    def _replace(self, name: str, given: TensorSpec) -> None:
        """A tensor of the adapter takes the place of the base's."""
        old = self._base.tensors.get(name)
        if old is None and not self._is_explained(name, given):
            raise _MisfitError(
                f"{self._where(given.name)} would replace {name!r}, which the base ({self._base.label}) does not have",
                self._nearest(name) or _OTHER_BASE,
            )
        if old is not None and not self._may_replace(old, given):
            raise _MisfitError(
                f"{self._where(given.name)} has shape {list(given.shape)}, but {name!r} has shape {list(old.shape)} "
                f"in {self._base.file_of(name)}",
                _OTHER_BASE,
            )
        self._changes[name] = Change(replace(given, name=name), source=given.name)

    def _is_explained(self, name: str, given: TensorSpec) -> bool:
        """Whether the base may lack a tensor: a new head, or one that the base shares with the embedding."""
        module = name.rpartition(".")[0]
        is_adapted = module in self._contents.modules and name == f"{module}.weight"
        shared = len(given.shape) == 2 and any(
            other in self._base.tensors and self._adapter.tensors[source].shape == given.shape
            for other, source in self._contents.whole.items()
        )
        return self._config.is_saved(module) or is_adapted or shared

    def _may_replace(self, old: TensorSpec, given: TensorSpec) -> bool:
        """Whether the shapes agree; a head may be another, and a vocabulary may have grown."""
        is_table = len(old.shape) == len(given.shape) == 2 and old.shape[1] == given.shape[1]
        return old.shape == given.shape or is_table or self._config.is_saved(old.name.rpartition(".")[0])

    def _add(self, name: str, module: Module) -> None:
        """A product of factors is added to a module's weight."""
        a, b = module.part("lora_A", "lora_embedding_A"), module.part("lora_B", "lora_embedding_B")
        if a is None or b is None:
            there, lacking = (a, "B") if a else (b, "A")
            what = self._where(there) if there else f"{self._adapter.label}: module {name!r}"
            raise _MisfitError(f"{what} has no factor {lacking} beside it", _INCOMPLETE)
        self._check_attention(name, a)
        spec = self._changeable(f"{name}.weight", a)
        rank, scale = self._config.scaling_of(module.owner)
        self._check_shapes(spec, module, (a, b), rank)
        magnitude = self._magnitude(name, module, b)
        columns = spec.size // max(spec.shape[0], 1)
        transposed = self._is_transposed(spec, module, a, b)
        self._set(spec, Product(a, b, rank, scale, columns, transposed, magnitude))

    def _shift(self, name: str, module: Module) -> None:
        """The bias of a factor B is added to the module's bias: one row to which a product of rank 1 is added."""
        bias = module.part("lora_B.bias")
        if bias is None:
            return
        spec = self._changeable(f"{name}.bias", bias)
        if self._adapter.tensors[bias].shape != spec.shape:
            raise self._unlike(spec, bias)
        _, scale = self._config.scaling_of(module.owner)
        self._set(spec, Product(None, bias, 1, scale, spec.size, True))

    def _changeable(self, name: str, factor: str) -> TensorSpec:
        """The tensor that a factor changes: the adapter's own if it has replaced the base's."""
        replaced = self._changes.get(name)
        spec = replaced.spec if replaced else self._base.tensors.get(name)
        if spec is None:
            raise _MisfitError(
                f"{self._where(factor)} changes {name!r}, which the base ({self._base.label}) does not have",
                self._nearest(name)
                or f"{_OTHER_BASE}; if it is an output head, the base must hold it as a tensor of its own",
            )
        if spec.dtype.kind is not Kind.FLOAT:
            raise _MisfitError(
                f"{self._where(factor)} changes {name!r}, which is {spec} in {self._base.file_of(name)}",
                "a quantised base cannot be adapted: name the base in bfloat16, float16 or float32",
            )
        return spec

    def _check_attention(self, name: str, factor: str) -> None:
        """Refuse torch's own attention: versions of peft differ in how often they add the output projection."""
        if f"{name}.in_proj_weight" in self._base.tensors:
            what = f"{self._where(factor)} changes {name!r}, a torch.nn.MultiheadAttention"
            raise _MisfitError(f"{what}, whose output projection some versions of peft change twice", MERGE_FIRST)

    def _check_shapes(self, spec: TensorSpec, module: Module, factors: tuple[str, str], rank: int) -> None:
        first, second = (self._adapter.tensors[name].shape for name in factors)
        sound = len(first) >= 2 and len(second) >= 2 and first[0] == second[1] and set(second[2:]) <= {1}
        if not sound or spec.shape not in self._shapes(module, first, second):
            raise self._unlike(spec, *factors)
        if first[0] != rank:
            raise _MisfitError(
                f"{self._where(factors[0])} has shape {list(first)}, of rank {first[0]}, but the configuration gives "
                f"{module.owner!r} rank {rank}",
                _STRANGERS,
            )

    def _shapes(self, module: Module, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes that the weight may have: outputs by inputs, and for matrices the other way round."""
        straight, turned = (b[0], *a[1:]), (a[1], b[0])
        return (turned,) if module.is_embedding else (straight, turned) if len(a) == 2 else (straight,)

    def _is_transposed(self, spec: TensorSpec, module: Module, a: str, b: str) -> bool:
        straight = (self._adapter.tensors[b].shape[0], *self._adapter.tensors[a].shape[1:])
        is_square = len(straight) == 2 and straight[0] == straight[1]
        return module.is_embedding or spec.shape != straight or (is_square and self._config.transposed)

    def _magnitude(self, name: str, module: Module, b: str) -> str | None:
        magnitude = module.part("lora_magnitude_vector")
        if (magnitude is not None) != self._config.dora:
            raise _MisfitError(
                f"{self._adapter.label}: module {name!r} has {'a' if magnitude else 'no'} lora_magnitude_vector, but "
                f"the configuration says use_dora: {str(self._config.dora).lower()}",
                _STRANGERS,
            )
        lengths = self._adapter.tensors[magnitude] if magnitude else None
        outputs = self._adapter.tensors[b].shape[0]
        if lengths and lengths.size != outputs:
            what = f"has shape {list(lengths.shape)}, but the module has {outputs} outputs"
            raise _MisfitError(f"{self._where(lengths.name)} {what}", _INCOMPLETE)
        return magnitude

    def _set(self, spec: TensorSpec, product: Product) -> None:
        names = [name for name in (product.a, product.b, product.magnitude) if name]
        factors = [self._adapter.tensors[name] for name in names]
        for factor in factors:
            if factor.dtype.kind is not Kind.FLOAT:
                what = f"{self._where(factor.name)} is {factor}"
                raise _MisfitError(what, "save the adapter in float32, float16 or bfloat16")
        dtype = compute_dtype([spec.dtype, *(factor.dtype for factor in factors)])
        change = self._changes.get(spec.name, Change(spec))
        self._changes[spec.name] = replace(change, spec=replace(spec, dtype=dtype), product=product)

    def _unsettled_squares(self) -> Iterator[Problem]:
        """Square weights that may be stored either way, in a model that stores others transposed.

        peft writes fan_in_fan_out as it was for the *last* module, so that `false` means little where both kinds occur.
        """
        products = {c.product.b: (name, c) for name, c in self._changes.items() if c.product and c.product.a}
        tables = {module.part("lora_embedding_B") for module in self._contents.modules.values()}
        matrices = [(name, c) for b, (name, c) in products.items() if b not in tables]
        turned = [name for name, c in matrices if c.product and c.product.transposed]
        for name, change in matrices if turned and not self._config.transposed else []:
            if len(change.spec.shape) == 2 and len(set(change.spec.shape)) == 1:
                yield Problem(
                    f"{self._adapter.label}: {name!r} is square and may be stored inputs by outputs, as {turned[0]!r} "
                    "is, but the configuration says fan_in_fan_out: false",
                    "set fan_in_fan_out to true in adapter_config.json if it is a Conv1D, as in GPT-2",
                )

    def _unlike(self, spec: TensorSpec, *factors: str) -> _MisfitError:
        shapes = " and ".join(f"{name!r} {list(self._adapter.tensors[name].shape)}" for name in factors)
        groups = " (convolutions in groups are not supported)" if len(spec.shape) > 2 else ""
        return _MisfitError(
            f"{self._adapter.label}: {shapes} do not fit {spec.name!r}, which has shape {list(spec.shape)} in the base "
            f"({self._base.label})",
            _OTHER_BASE + groups,
        )

    def _nearest(self, name: str) -> str:
        """The closest name in the base; only for the first problems: the search is slow, and another base lacks all."""
        return nearest(name, self._base.tensors) if len(self._problems) < 20 else ""

    def _where(self, name: str) -> str:
        return f"{self._adapter.file_of(name)}: tensor {name!r}"
