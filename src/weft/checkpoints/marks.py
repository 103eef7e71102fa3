"""What tells which model a file of statistics belongs to, and whether a checkpoint is that model.

A header alone cannot tell two fine-tunes of one model apart, and reading every number takes long. So beside the header
a few numbers of every tensor are hashed: its beginning and its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

from weft.checkpoints.checkpoint import Checkpoint

_ENDS = 64
"""Numbers at either end of a tensor that are hashed."""
KINDS = ("fisher", "gram", "gradient", "importance")
"""What is measured of models: the word that a file of statistics says of itself, and the command that measures it."""


@dataclass(frozen=True)
class Marks:
    """What a checkpoint is told by.

    Attributes:
        layout_sha256: of the names and shapes of its tensors.
        header_sha256: of these, the number formats and the metadata; see `Checkpoint.fingerprint`.
        sample_sha256: of the first and last numbers of every tensor.
    """

    layout_sha256: str
    header_sha256: str
    sample_sha256: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The marks of a checkpoint, whose files are read here and there."""
        layout = [[name, list(spec.shape)] for name, spec in sorted(checkpoint.tensors.items())]
        return cls(_sha256(json.dumps(layout)), checkpoint.fingerprint["header_sha256"], _sampled(checkpoint))

    @classmethod
    def told(cls, metadata: Mapping[str, str], of: str = "model") -> Self | None:
        """The marks of the model that a file of statistics was measured on, or its base's, if it says so."""
        found = {key: metadata.get(f"{of}_{key}", "") for key in cls.__dataclass_fields__}
        return cls(**found) if all(found.values()) else None

    def metadata(self, of: str = "model") -> dict[str, str]:
        """As they stand in a file of statistics."""
        return {f"{of}_{key}": value for key, value in asdict(self).items()}


def _sampled(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, spec in sorted(checkpoint.tensors.items()):
        buffer = np.empty(_ENDS * spec.dtype.itemsize, np.uint8)
        for start in (0, max(spec.size - _ENDS, 0)):
            digest.update(checkpoint.read(name, start, min(start + _ENDS, spec.size), buffer).tobytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
