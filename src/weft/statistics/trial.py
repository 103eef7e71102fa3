"""No way of computing is believed before it has given, for two examples, what torch gives for one at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_AGREE = 2e-3
"""Relative to a parameter's largest squared gradient."""
_AGREE_HALF = 0.2
_NOISE = 64
"""Gradients of so many roundings of the model's largest one are noise: those of a key's bias vanish exactly."""
_NOISE_HALF = 4


def disagreeing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], dtype: torch.dtype) -> list[str]:
    """Parameters whose squared gradients differ by more than rounding explains.

    Args:
        ours: sums of squares, in the way to be tried.
        theirs: the same from single examples.
        dtype: the number format that the model computes in.
    """
    half = dtype.itemsize < 4
    tolerance = _AGREE_HALF if half else _AGREE
    largest = max((float(t.max()) for t in theirs.values() if t.numel()), default=0.0)
    noise = (torch.finfo(dtype).eps * (_NOISE_HALF if half else _NOISE)) ** 2 * largest
    return [name for name in theirs if not _close(ours[name], theirs[name], tolerance, noise)]


def _close(ours: Tensor, theirs: Tensor, tolerance: float, noise: float) -> bool:
    if not theirs.numel():
        return True
    allowed = tolerance * float(theirs.max()) + noise
    return float((ours - theirs).abs().max()) <= allowed
