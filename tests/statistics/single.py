"""The reference: one example at a time, one label at a time, plain torch in float64, no hooks, no batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


def exact(module: nn.Module, batch: Batch, logits: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
    """F = 1/n sum_x sum_y p(y|x) (d log p(y|x) / d theta)^2; logits(batch of one) is positions x classes."""
    result = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    count = len(next(iter(batch.values())))
    for i in range(count):
        rows = logits({name: column[i : i + 1] for name, column in batch.items()})
        for row in rows:
            for label in range(rows.shape[-1]):
                log = row.log_softmax(-1)[label]
                add_square(result, module, log, float(log.detach().exp()) / count)
    return result


def at_labels(module: nn.Module, batch: Batch, log: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
    """F = 1/n sum_x (d log / d theta)^2 for whatever number log(batch of one) is."""
    result = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    count = len(next(iter(batch.values())))
    for i in range(count):
        add_square(result, module, log({name: column[i : i + 1] for name, column in batch.items()}), 1.0 / count)
    return result


def add_square(result: dict[str, Tensor], module: nn.Module, log: Tensor, weight: float) -> None:
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(log, list(parameters.values()), retain_graph=True, allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            result[name] += weight * gradient.detach() ** 2


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rtol: float = 2e-6) -> None:
    """Ours are rounded to float32; noise, where the truth is zero, is measured by the largest of all."""
    assert set(ours) == set(theirs)
    largest = max(float(t.max()) for t in theirs.values())
    for name, expected in theirs.items():
        torch.testing.assert_close(
            ours[name].double(),
            expected.detach().double(),
            rtol=rtol,
            atol=1e-12 * largest,
            msg=partial("{}: {}".format, name),
        )
