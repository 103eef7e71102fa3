"""Hooks that see every call of the layers that own parameters, and the gradients that come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from weft.statistics.layers.known import layer_of
from weft.statistics.layers.layer import Layer
from weft.statistics.layers.replay import tensors_of
from weft.statistics.makers import BiasMaker, bias_makers


@dataclass(frozen=True)
class Owner:
    """A module that holds parameters itself.

    Attributes:
        name: the module's path.
        module: the module.
        own: the names that the module and the model have for its parameters.
        layer: the formula for it, or None if it must be replayed.
    """

    name: str
    module: Any
    own: Mapping[str, str]
    layer: Layer | None

    @property
    def kind(self) -> str:
        """What to call it in a sentence."""
        module = self.module.attention if isinstance(self.module, BiasMaker) else self.module
        return type(module).__name__


def owners_of(module: Any, wanted: Mapping[str, Any]) -> list[Owner]:
    """Every module that holds parameters that are wanted; a tied parameter has several."""
    names = {id(parameter): name for name, parameter in wanted.items()}
    makers = bias_makers(module)
    found: list[Owner] = []
    kept_by: tuple[str, ...] = ()  # attention of torch uses the weights of a layer that it never calls
    for path, part in module.named_modules():
        own = {attribute: names[id(p)] for attribute, p in part._parameters.items() if id(p) in names}
        if own and id(part) in makers:
            attribute, maker = makers[id(part)]
            found.append(Owner(path, maker, {attribute: own["weight"]}, None))
        elif isinstance(part, nn.MultiheadAttention):
            inside = {attribute: names[id(p)] for attribute, p in part.named_parameters() if id(p) in names}
            found += [Owner(path, part, inside, None)] if inside else []
            kept_by = (*kept_by, f"{path}.")
        elif own and not path.startswith(kept_by):
            layer = layer_of(part) if own.keys() <= {"weight", "bias"} else None
            found.append(Owner(path, part, own, layer))
    return _without_keepers(found)


def _without_keepers(owners: list[Owner]) -> list[Owner]:
    """Without modules that merely keep a parameter of a layer inside them, as BERT's heads keep a decoder's bias."""
    kept = []
    for owner in owners:
        inside = f"{owner.name}."
        inner = {n for o in owners if o.layer and o.name.startswith(inside) for n in o.own.values()}
        own = {attribute: name for attribute, name in owner.own.items() if owner.layer or name not in inner}
        if own:
            kept.append(replace(owner, own=own))
    return kept


@dataclass
class Call:
    """One call of an owner.

    Attributes:
        owner: what was called.
        number: the how manieth call of it in this forward pass.
        arguments: positional and by name.
        outputs: the real tensors that it gave.
        gradients: of these, as they come back.
    """

    owner: Owner
    number: int
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: list[Tensor]
    gradients: list[Tensor | None] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from others."""
        return self.owner.name, self.number

    def inputs(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return [leaf for leaf in pytree.tree_leaves(self.arguments) if isinstance(leaf, Tensor)]

    def first_input(self) -> Tensor:
        """The input of a layer with a formula."""
        args, kwargs = self.arguments
        tensor: Tensor = args[0] if args else next(iter(kwargs.values()))
        return tensor


class Watch:
    """Watches forward passes.

    Args:
        owners: whose calls are wanted.
        spread: calls whose output is the same for all examples, such as a table of positions, and has no row for
            each; it is repeated, so that each example's gradient comes back by itself.
        examples: how many there are in the batch.
        tell: told of every call, when its output is ready.
        copied: whether outputs that are views are copied.
    """

    def __init__(
        self,
        owners: Sequence[Owner],
        spread: frozenset[tuple[str, int]],
        examples: int,
        tell: Callable[[Call], None],
        copied: bool = False,
    ) -> None:
        self._owners, self._spread, self._examples, self._tell = owners, spread, examples, tell
        self._copied = copied
        self._counts: dict[str, int] = {}
        self._deaf = False
        self.leaves: list[Tensor] = []
        """Where gradients enter: outputs that depend on parameters only."""

    @contextmanager
    def listening(self) -> Iterator[Watch]:
        """Have the hooks in place."""
        with ExitStack() as stack:
            for owner in self._owners:
                handle = owner.module.register_forward_hook(self._hook(owner), with_kwargs=True)
                stack.callback(handle.remove)
                if isinstance(owner.module, BiasMaker):
                    owner.module.put()
                    stack.callback(owner.module.take_away)
            yield self

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing, while layers are replayed."""
        self._deaf = True
        try:
            yield
        finally:
            self._deaf = False

    def _hook(self, owner: Owner) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return None if self._deaf else self._called(owner, args, kwargs, output)

        return hook

    def _called(self, owner: Owner, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        number = self._counts.get(owner.name, 0)
        self._counts[owner.name] = number + 1
        if (owner.name, number) in self._spread:
            args, kwargs = pytree.tree_map_only(Tensor, self._repeated, (args, kwargs))
            output = pytree.tree_map_only(Tensor, self._repeated, output)
        if torch.is_grad_enabled():
            output = pytree.tree_map_only(Tensor, self._rooted, output)
        self._tell(Call(owner, number, (args, kwargs), tensors_of(output)))
        return output

    def _repeated(self, tensor: Tensor) -> Tensor:
        return tensor.expand(self._examples, *tensor.shape[1:]) if tensor.ndim and len(tensor) == 1 else tensor

    def _rooted(self, tensor: Tensor) -> Tensor:
        """A tensor that gradients come back to; a copy, since whoever takes it may change it in place."""
        if tensor.requires_grad or not tensor.is_floating_point():
            return tensor.clone() if self._copied and tensor._is_view() else tensor
        leaf = tensor.detach().requires_grad_()
        self.leaves.append(leaf)
        return leaf.clone()
