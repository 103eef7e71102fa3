"""Whether two tensors are the same, found out in pieces."""

from __future__ import annotations

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint, TensorSpec
from weft.errors import InputError

_CHUNK = 1 << 20

Doubts = dict[str, dict[str, None]]
"""What could not be found out yet: by the question, the tensors that it is about, in order."""

TIED = "which tensors of equal shape are tied, among them"
PASSED_THROUGH = "whether these are equal in every input, as they must be to pass through:"


class NumbersAbsentError(InputError):
    """A tensor was to be read of which only the header is here.

    Args:
        label: what its checkpoint is called.
        spec: the tensor.
        file: which file holds it.
        doubts: where questions are noted that must wait for the numbers.
    """

    def __init__(self, label: str, spec: TensorSpec, file: str, doubts: Doubts) -> None:
        what = (
            f"{label}: the numbers of tensor {spec.name!r} ({spec}) in {file} have not been downloaded, only its header"
        )
        super().__init__(
            what, f"merge, which downloads them; or fetch them for the plan: hf download {label.partition('@')[0]}"
        )
        self._name = spec.name
        self._doubts = doubts

    def put_off(self, question: str) -> None:
        """Note that a question about the tensor waits for its numbers."""
        self._doubts.setdefault(question, {})[self._name] = None


def same_numbers(one: Checkpoint, a: str, other: Checkpoint, b: str) -> bool:
    """Whether two tensors have one format, one shape and the same bytes; read in pieces.

    Where numbers are absent (in a plan, before the download) they are taken to be the same, and the question is noted.
    """
    if one is other and a == b:
        return True
    spec, twin = one.tensors[a], other.tensors[b]
    if (spec.dtype, spec.shape) != (twin.dtype, twin.shape):
        return False
    try:
        return _same_bytes(one, a, other, b)
    except NumbersAbsentError as absent:
        absent.put_off(TIED if one is other else PASSED_THROUGH)
        return True


def _same_bytes(one: Checkpoint, a: str, other: Checkpoint, b: str) -> bool:
    spec = one.tensors[a]
    buffers = np.empty((2, _CHUNK * spec.dtype.itemsize), np.uint8)
    for start in range(0, spec.size, _CHUNK):
        stop = min(start + _CHUNK, spec.size)
        left, right = one.read(a, start, stop, buffers[0]), other.read(b, start, stop, buffers[1])
        if not np.array_equal(left.view(np.uint8), right.view(np.uint8)):
            return False
    return True
