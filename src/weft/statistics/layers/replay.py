"""A layer without a formula is run again, one example at a time, and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weft.statistics.layers.layer import precise
from weft.statistics.layers.use import Formed, Use

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def replayed(
    module: Any,
    names: Sequence[str],
    arguments: Arguments,
    batched: Sequence[int],
    gradients: Sequence[Tensor | None],
    examples: int,
    tile_bytes: int,
) -> Mapping[str, Use]:
    """What a call of any module contributes to the gradients of its own parameters.

    Args:
        module: what was called.
        names: of its own parameters.
        arguments: what it was called with.
        batched: for every tensor among them, how many of its rows belong to an example; 0 if it is the same for all.
        gradients: of every tensor in its output, examples outermost.
        examples: how many.
        tile_bytes: about the most memory for gradients.
    """
    leaves, tree = pytree.tree_flatten(arguments)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    sliced = [i for i, k in zip(tensors, batched, strict=True) if k]
    stacks = [leaves[i].reshape(examples, -1, *leaves[i].shape[1:]) for i in sliced]
    known = [(i, g) for i, g in enumerate(gradients) if g is not None]
    wanted = [g.reshape(examples, -1, *g.shape[1:]) for _, g in known]

    def run(parameters: dict[str, Tensor], parts: list[Tensor]) -> list[Tensor]:
        own = list(leaves)
        for i, part in zip(sliced, parts):
            own[i] = part
        args, kwargs = pytree.tree_unflatten(own, tree)
        found = tensors_of(torch.func.functional_call(module, parameters, args, dict(kwargs)))
        return [found[i] for i, _ in known]

    parameters = {name: module.get_parameter(name).detach() for name in names}
    results = _differentiated(run, parameters, stacks, wanted, tile_bytes)
    return {name: Formed(precise(gradient)) for name, gradient in results.items()}


def tensors_of(output: Any) -> list[Tensor]:
    """The real tensors in a module's output, in order."""
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _differentiated(
    run: Callable[[dict[str, Tensor], list[Tensor]], list[Tensor]],
    parameters: dict[str, Tensor],
    stacks: list[Tensor],
    wanted: list[Tensor],
    tile_bytes: int,
) -> dict[str, Tensor]:
    """Each example's product of the output gradients with the derivative: at once where torch can, else in turn."""

    def pulled(parts: list[Tensor], pull: list[Tensor]) -> dict[str, Tensor]:
        outputs, back = torch.func.vjp(lambda own: run(own, parts), parameters)
        (gradients,) = back([g.to(out.dtype) for g, out in zip(pull, outputs)])
        return dict(gradients)

    size = sum(p.numel() * p.element_size() for p in parameters.values())
    try:
        return dict(torch.func.vmap(pulled, chunk_size=max(1, tile_bytes // max(1, size)))(stacks, wanted))
    except Exception:  # torch names no class for what it cannot vectorise; what is truly wrong is raised again below
        one = [pulled([s[i] for s in stacks], [w[i] for w in wanted]) for i in range(len(wanted[0]))]
        return {name: torch.stack([gradients[name] for gradients in one]) for name in parameters}
