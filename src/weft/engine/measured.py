"""Whether statistics were measured on the model that they stand beside, where they say what they were measured on."""

from __future__ import annotations

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.comparing import NumbersAbsentError
from weft.checkpoints.marks import KINDS, Marks
from weft.checkpoints.renamed import Renamed
from weft.checkpoints.rows import Rows
from weft.errors import Problem

_REMEDY = "give the statistics of this very model"
_ANYWAY = "; or, if you know better, remove the entries {role}_... from their metadata"


def another_kind(statistics: Checkpoint, kind: str, of: str) -> Problem | None:
    """What is wrong if a file says that it holds something else; files that say nothing are believed.

    Args:
        statistics: the file.
        kind: the name of the parameter that it is given for; checked only where it is that of a kind of statistics.
        of: what to call the file.
    """
    told = statistics.metadata.get("kind")
    if kind not in KINDS or told not in KINDS or told == kind:
        return None
    return Problem(f"{of} ({statistics.label}) holds what `weft {told}` measures", f"give what `weft {kind}` wrote")


def measured_elsewhere(statistics: Checkpoint, model: Checkpoint, of: str, role: str = "model") -> Problem | None:
    """What is wrong if a file says that it was measured on another model; files that say nothing are believed.

    A model that was stored in another number format since, or is in memory, cannot be told from another of its layout
    and passes too.

    Args:
        statistics: the file.
        model: the model that it stands beside, as it is merged.
        of: what to call the file.
        role: as what it was measured: `model`, or `base` where that was another.
    """
    told = Marks.told(statistics.metadata, role)
    if told is None:
        return None
    try:
        own = Marks.of(as_stored(model))
    except NumbersAbsentError:  # planned before the download
        return None
    if own.layout_sha256 != told.layout_sha256:
        return _problem(statistics, model, of, role, "a model with other tensors")
    if own.header_sha256 == told.header_sha256 and own.sample_sha256 != told.sample_sha256:
        return _problem(statistics, model, of, role, "another model of this layout: its numbers differ")
    return None


def _problem(statistics: Checkpoint, model: Checkpoint, of: str, role: str, what: str) -> Problem:
    name = statistics.metadata.get(role, "")
    told = f" ({name})" if name else ""
    text = f"{of} ({statistics.label}) was not measured on {model.label}, but on {what}{told}"
    kind = statistics.metadata.get("kind", "")
    measure = f"; or measure it, with `weft {kind}`" if kind in KINDS else ""
    return Problem(text, _REMEDY + measure + _ANYWAY.format(role=role))


def as_stored(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under its own names and with its own rows, as it was measured."""
    while isinstance(checkpoint, (Renamed, Rows)):
        checkpoint = checkpoint.inner
    return checkpoint
