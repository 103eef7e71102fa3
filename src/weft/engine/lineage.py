"""Does a model descend from the base? If it changed by more than the base holds, probably not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from weft.checkpoints.checkpoint import Array
from weft.engine.work import Operand, Work
from weft.kernels.decoding import decoded

_TENSORS = 32
_SAMPLE = 4096


def strangers(works: Sequence[Work], names: Sequence[str]) -> Iterator[str]:
    """Warnings about models whose task vector is longer than the base itself.

    Looks at the first numbers of the largest tensors only, so it costs a blink whatever the size of the models.

    Args:
        works: what is merged.
        names: the models' names.
    """
    based = [work for work in works if ("base", None) in work.operands and work.method and work.method.needs_base]
    largest = sorted(based, key=lambda work: -work.spec.size)[:_TENSORS]
    for i, name in enumerate(names):
        of_base, of_change = _squares(largest, i)
        if of_change > of_base > 0:
            ratio = (of_change / of_base) ** 0.5
            yield (
                f"model {name!r} differs from the base by {ratio:.1f} times the base's own length: "
                "it may not descend from this base"
            )


def _squares(works: Iterable[Work], model: int) -> tuple[float, float]:
    """Squared lengths of the sampled base and of the model's change."""
    of_base = of_change = 0.0
    for work in works:
        base, tuned = work.operands.get(("base", None)), work.operands.get(("tuned", model))
        if base and tuned:
            there, here = _sample(base), _sample(tuned)
            of_base += float(there @ there)
            of_change += float((here - there) @ (here - there))
    return of_base, of_change


def _sample(operand: Operand) -> Array:
    count = min(operand.spec.size, _SAMPLE)
    buffer = np.empty(count * operand.spec.dtype.itemsize, np.uint8)
    values = operand.checkpoint.read(operand.spec.name, 0, count, buffer)
    numbers = decoded(values, operand.spec.dtype)
    return np.where(np.isfinite(numbers), numbers, 0.0)
