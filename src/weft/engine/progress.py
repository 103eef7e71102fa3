"""How the engine tells what it is doing. The default is silence; the command line shows bars or lines."""

from __future__ import annotations


class Progress:
    """Receives what happens. Methods may be called from any thread; override those of interest."""

    def phase(self, name: str, total: int) -> None:
        """A stretch of work begins that will move `total` bytes."""

    def continued(self, share: float) -> None:
        """An earlier run, killed or interrupted, did this share of the output, between 0 and 1."""

    def advance(self, count: int) -> None:
        """So many bytes more were moved."""

    def note(self, text: str) -> None:
        """What was chosen for a person who did not choose."""

    def warning(self, text: str) -> None:
        """Something that a person should know."""
