"""Whose labels a gradient is taken at: all of them, drawn ones or the data's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from weft.errors import InputError, nearest

EXACT_UP_TO = 16
"""Classes that `auto` still goes through one by one."""


class Kind(Enum):
    """How labels are chosen."""

    AUTO = "auto"
    EXACT = "exact"
    SAMPLED = "sampled"
    OBSERVED = "observed"
    TRIAL = "trial"
    """Fixed labels that no rounding can change; two ways of computing are compared at them."""


@dataclass(frozen=True)
class Labels:
    """How labels are chosen, settled.

    Attributes:
        kind: all of them, drawn from the model's prediction, or the data's own.
        samples: draws for each example, with `sampled`.
        seed: of the draws.
    """

    kind: Kind = Kind.AUTO
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}", "draw at least one label for each example")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}", "give a number from 0 to 2^64 - 1")

    @classmethod
    def named(cls, labels: str, samples: int = 1, seed: int = 0) -> Labels:
        """What a person asked for.

        Raises:
            InputError: if there is no such way, or a number makes no sense.

        Example:
            >>> Labels.named("exact").kind
            <Kind.EXACT: 'exact'>
        """
        public = [kind.value for kind in Kind if kind is not Kind.TRIAL]
        if labels not in public:
            remedy = nearest(str(labels), public) or f"labels are one of {', '.join(public)}"
            raise InputError(f"labels: there is no {labels!r}", remedy)
        return cls(Kind(labels), samples, seed)

    def settled(self, passes: int) -> Labels:
        """The same with `auto` decided: exact if that takes few backward passes, else sampled."""
        if self.kind is not Kind.AUTO:
            return self
        return Labels(Kind.EXACT if passes <= EXACT_UP_TO else Kind.SAMPLED, self.samples, self.seed)


def uniforms(seed: int, example: int, sample: int, positions: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on the seed, the example's number, the draw and the position, on nothing else.

    They come from a counter-based generator, so that neither the size of a batch nor a restart moves them, and the
    first positions get the same numbers however many there are.

    Example:
        >>> uniforms(0, 7, 0, 3)[:2].tolist() == uniforms(0, 7, 0, 2).tolist()
        True
    """
    key = np.array([seed, example], dtype=np.uint64)
    counter = np.array([0, 0, 0, sample], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(positions)


def drawn(logits: Tensor, counted: Tensor, labels: Labels, numbers: Sequence[int], sample: int) -> Tensor:
    """Labels drawn from the model's own prediction, by inverting its distribution function.

    A position's number is its rank among the counted ones, so that padding on either side moves no draw.

    Args:
        logits: examples x positions x classes.
        counted: examples x positions, whether a position counts.
        labels: the seed.
        numbers: each example's number in the data.
        sample: which draw.

    Returns:
        Class numbers, examples x positions; 0 where nothing counts.
    """
    result = torch.zeros(counted.shape, dtype=torch.long, device=logits.device)
    for row, number in enumerate(numbers):
        where = counted[row]
        chosen = logits[row, where].detach().double()
        heights = torch.from_numpy(uniforms(labels.seed, number, sample, len(chosen))).to(logits.device)
        steps = chosen.softmax(-1).cumsum(-1)
        heights = heights * steps[:, -1]  # the last step is 1 only up to rounding
        result[row, where] = torch.searchsorted(steps, heights[:, None], right=True)[:, 0].clamp_(
            max=steps.shape[1] - 1
        )
    return result


def normals(outputs: Tensor, labels: Labels, numbers: Sequence[int], sample: int) -> Tensor:
    """Standard normal numbers that depend on what `uniforms` depends on, examples x outputs."""
    rows = [uniforms(labels.seed, number, sample, 2 * outputs.shape[1]) for number in numbers]
    first, second = torch.from_numpy(np.stack(rows)).reshape(*outputs.shape, 2).unbind(-1)
    noise = (-2.0 * (1.0 - first).log()).sqrt() * (2.0 * torch.pi * second).cos()  # Box and Muller 1958
    return noise.to(outputs.device, outputs.dtype)
