"""Backward passes that end in squares of per-example gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weft.statistics.layers.layer import precise
from weft.statistics.layers.replay import replayed
from weft.statistics.layers.use import CPU_TILE, GPU_TILE, Use, add_squares
from weft.statistics.planning import Plan
from weft.statistics.watching import Call, Owner, Watch

Scores = Callable[[], Iterable[Tensor]]
Sums = Mapping[str, Tensor]


class ReplanError(Exception):
    """The model did something that it did not do when it was looked at."""


@contextmanager
def evaluated(module: Any, wanted: Mapping[str, Any], differentiable: bool) -> Iterator[None]:
    """Dropout off, and parameters' own gradients on or off; everything is as it was afterwards."""
    modes = {part: part.training for part in module.modules()}
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    chosen = {id(parameter) for parameter in wanted.values()} if differentiable else set()
    module.eval()
    for parameter in flags:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def square_one(module: Any, wanted: Mapping[str, Any], scores: Scores, sums: Sums) -> None:
    """Add the squared gradients of one example, as torch computes them.

    Args:
        module: the model.
        wanted: its parameters, by name.
        scores: runs the model on the example and gives its scores.
        sums: added to.
    """
    with evaluated(module, wanted, differentiable=True), torch.enable_grad():
        for score, more in with_more(scores()):
            gradients = torch.autograd.grad(score.sum(), list(wanted.values()), retain_graph=more, allow_unused=True)
            for name, gradient in zip(wanted, gradients, strict=True):
                if gradient is not None:
                    sums[name].add_(precise(gradient).square())


def with_more(scores: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Every score, and whether another follows that needs the same forward pass."""
    iterator = iter(scores)
    score = next(iterator)
    for following in iterator:
        yield score, True
        score = following
    yield score, False


@dataclass
class _Pending:
    """What is known of one parameter's gradients in one backward pass."""

    calls: int
    uses: list[Use]


class Together:
    """All examples of a batch in one backward pass for each score.

    Args:
        module: the model.
        wanted: its parameters, by name.
        owners: the modules that hold them.
        plan: how their calls carry examples.
    """

    def __init__(self, module: Any, wanted: Mapping[str, Any], owners: Sequence[Owner], plan: Plan) -> None:
        self._module, self._wanted, self._owners, self._plan = module, wanted, owners, plan
        device = next(iter(wanted.values())).device
        self._tile = CPU_TILE if device.type == "cpu" else GPU_TILE

    def square(self, scores: Scores, examples: int, sums: Sums) -> None:
        """Add the squared gradients of all examples.

        Args:
            scores: runs the model on the batch and gives its scores.
            examples: how many there are.
            sums: added to.

        Raises:
            ReplanError: if the model calls its layers in another way than planned.
        """
        backward = _Backward(self._plan, examples, sums, self._tile)
        watch = Watch(self._owners, self._plan.spread, examples, backward.heard, self._plan.copied)
        with evaluated(self._module, self._wanted, differentiable=False), torch.enable_grad(), watch.listening():
            for score, more in with_more(scores()):
                backward.began()
                if watch.leaves:  # else no layer was called, and the trial will tell
                    torch.autograd.grad(score.sum(), watch.leaves, retain_graph=more, allow_unused=True)
                with watch.deaf():
                    backward.ended()


class _Backward:
    """Collects the gradients of one backward pass after another and squares what is complete."""

    def __init__(self, plan: Plan, examples: int, sums: Sums, tile: int) -> None:
        self._plan, self._examples, self._sums, self._tile = plan, examples, sums, tile
        self._calls: list[Call] = []
        self._pending: dict[str, _Pending] = {}

    def heard(self, call: Call) -> None:
        """A call of the forward pass."""
        if call.key not in self._plan.calls:
            raise ReplanError(call.owner.name)
        self._calls.append(call)
        for i, output in enumerate(call.outputs):
            if output.requires_grad:
                output.register_hook(partial(self._arrived, call, i))

    def began(self) -> None:
        """A backward pass begins: nothing has come back."""
        counts = Counter(name for call in self._calls for name in call.owner.own.values())
        self._pending = {name: _Pending(count, []) for name, count in counts.items()}
        for call in self._calls:
            call.gradients = [None] * len(call.outputs)

    def _arrived(self, call: Call, place: int, gradient: Tensor) -> None:
        call.gradients[place] = gradient
        if call.owner.layer is not None:
            with torch.no_grad():
                self._add(call, call.owner.layer.uses(call.owner.module, call.first_input(), gradient, self._examples))
            call.gradients[place] = None

    def _add(self, call: Call, uses: Mapping[str, Use]) -> None:
        for attribute, name in call.owner.own.items():
            pending = self._pending[name]
            pending.calls -= 1
            pending.uses.append(uses[attribute])
            if not pending.calls:
                self._finish(name)

    def _finish(self, name: str) -> None:
        uses = self._pending.pop(name).uses
        if uses:
            total = self._sums[name]
            add_squares(uses, total.view(len(total) if total.ndim else 1, -1), self._tile)

    def ended(self) -> None:
        """What had to wait is replayed; what got no gradient from some call is squared without it."""
        with torch.no_grad():
            for call in self._calls:
                if call.owner.layer is None and any(g is not None for g in call.gradients):
                    self._add(call, self._replayed(call))
            for name in list(self._pending):
                self._finish(name)

    def _replayed(self, call: Call) -> Mapping[str, Use]:
        shares, owner = self._plan.calls[call.key], call.owner
        return replayed(
            owner.module, list(owner.own), call.arguments, shares, call.gradients, self._examples, self._tile
        )
