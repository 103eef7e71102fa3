"""Whether statistics were measured on the model that they stand beside, where they say what they were measured on."""

from __future__ import annotations

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import NumbersAbsentError
from weft.checkpoints.marks import Marks
from weft.checkpoints.renamed import Renamed
from weft.checkpoints.rows import Rows
from weft.errors import Problem

_REMEDY = "give the statistics of this very model; or measure it, with `weft fisher` or `weft gram`"
_ANYWAY = "; or, if you know better, remove the entries model_... from their metadata"


def measured_elsewhere(statistics: Checkpoint, model: Checkpoint, of: str) -> Problem | None:
    """What is wrong if a file says that it was measured on another model; files that say nothing are believed.

    A model that was stored in another number format since, or is in memory, cannot be told from another of its layout
    and passes too.

    Args:
        statistics: the file.
        model: the model that it stands beside, as it is merged.
        of: what to call the file.
    """
    told = Marks.told(statistics.metadata)
    if told is None:
        return None
    try:
        own = Marks.of(_as_stored(model))
    except NumbersAbsentError:  # planned before the download
        return None
    if own.layout_sha256 != told.layout_sha256:
        return _problem(statistics, model, of, "a model with other tensors")
    if own.header_sha256 == told.header_sha256 and own.sample_sha256 != told.sample_sha256:
        return _problem(statistics, model, of, "another model of this layout: its numbers differ")
    return None


def _problem(statistics: Checkpoint, model: Checkpoint, of: str, what: str) -> Problem:
    name = statistics.metadata.get("model", "")
    told = f" ({name})" if name else ""
    text = f"{of} ({statistics.label}) was not measured on {model.label}, but on {what}{told}"
    return Problem(text, _REMEDY + _ANYWAY)


def _as_stored(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under its own names and with its own rows, as it was measured."""
    while isinstance(checkpoint, (Renamed, Rows)):
        checkpoint = checkpoint.inner
    return checkpoint
