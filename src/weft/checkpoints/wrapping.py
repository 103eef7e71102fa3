"""What checkpoints have in common that show another one in another way."""

from __future__ import annotations

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.sources import SourceFile


class Wrapping(Checkpoint):
    """Another checkpoint under other names, with other rows, or decoded. Its files are the other's.

    Args:
        inner: the other checkpoint, which is closed with this one.
    """

    def __init__(self, inner: Checkpoint) -> None:
        self._inner = inner

    @property
    def inner(self) -> Checkpoint:
        """The other checkpoint."""
        return self._inner

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """As the inner checkpoint."""
        return self._inner.sources

    @property
    def is_resident(self) -> bool:
        """As the inner checkpoint."""
        return self._inner.is_resident

    @property
    def is_computed(self) -> bool:
        """As the inner checkpoint."""
        return self._inner.is_computed

    def close(self) -> None:
        """Close the inner checkpoint."""
        self._inner.close()
