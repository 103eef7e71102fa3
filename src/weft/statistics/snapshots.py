"""What has been summed so far, kept on disk now and then, so that a measurement that was killed goes on.

A snapshot is a safetensors file after a checksum of eight letters. One of them is always whole: a newer one is written
beside it and renamed over it. It is believed only for the very same measurement: model, data, options, versions.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.checkpoints.beside import FRESH, SNAPSHOT, beside
from weft.checkpoints.header import read_header
from weft.errors import InputError, listed
from weft.statistics.tensors import file_parts, spec_of

if TYPE_CHECKING:
    from torch import Tensor

_SUM = 8
"""Letters of the checksum."""
_CHUNK = 1 << 22
_SHARE = 20
"""A snapshot is taken after so many times as long as the last one took, if that is later than it is due."""

Identity = Mapping[str, Any]
"""What is measured, and how; JSON."""


@dataclass(frozen=True)
class Snapshot:
    """An unfinished measurement.

    Attributes:
        identity: of what.
        batch: examples and tokens in a batch at most, as they were chosen; another choice would round otherwise.
        done: how many examples are summed.
        examples, tokens: as the estimator counts them.
        sums: its sums.
    """

    identity: Identity
    batch: tuple[int, int]
    done: int
    examples: int
    tokens: int
    sums: Mapping[str, Tensor]


class Keeper:
    """Takes snapshots by the clock.

    Args:
        target: the file that is being measured; the snapshot lies beside it.
        interval: seconds between two.
    """

    def __init__(self, target: Path, interval: float) -> None:
        self._target = target
        self.path = snapshot_path(target)
        self._interval = interval
        self._due = time.monotonic() + interval

    @property
    def is_due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() >= self._due

    def keep(self, snapshot: Snapshot) -> None:
        """Write one, to survive a power failure too. A disk that does not take it only costs the chance to go on."""
        began = time.monotonic()
        with suppress(OSError):
            _write(self._target, snapshot)
        now = time.monotonic()
        self._due = now + max(self._interval, _SHARE * (now - began))

    def forget(self) -> None:
        """Remove it: the measurement is finished, or is to begin anew."""
        for kind in (SNAPSHOT, FRESH):
            beside(self._target, kind).unlink(missing_ok=True)


def snapshot_path(target: Path) -> Path:
    """Where the snapshot of a measurement lies."""
    return beside(target, SNAPSHOT)


def _write(target: Path, snapshot: Snapshot) -> None:
    told = {
        "identity": dict(snapshot.identity), "batch": list(snapshot.batch), "done": snapshot.done,
        "examples": snapshot.examples, "tokens": snapshot.tokens,
    }  # fmt: skip
    specs = [spec_of(name, tensor) for name, tensor in snapshot.sums.items()]
    fresh, checksum = beside(target, FRESH), 0
    with fresh.open("wb") as stream:
        stream.write(b"0" * _SUM)
        for part in file_parts(specs, snapshot.sums.values(), {"snapshot": json.dumps(told)}):
            checksum = zlib.crc32(part, checksum)
            stream.write(part)
        stream.seek(0)
        stream.write(b"%08x" % checksum)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, snapshot_path(target))


def read_snapshot(path: Path) -> Snapshot | None:
    """A snapshot; None if there is none, or if it is damaged."""
    try:
        if not _is_whole(path):
            return None
        with path.open("rb") as stream:
            return _parsed(path, stream)
    except (OSError, InputError, ValueError, KeyError, TypeError):
        return None


def _is_whole(path: Path) -> bool:
    checksum = 0
    with path.open("rb") as stream:
        told = stream.read(_SUM)
        while part := stream.read(_CHUNK):
            checksum = zlib.crc32(part, checksum)
    return told == b"%08x" % checksum


def _parsed(path: Path, stream: Any) -> Snapshot:
    import torch

    stream.seek(_SUM)
    header = read_header(stream, path, path.stat().st_size - _SUM)
    sums = {}
    for name, spec in header.tensors.items():
        stream.seek(_SUM + header.offsets[name])
        raw = bytearray(stream.read(spec.nbytes))
        flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
        sums[name] = flat.view(getattr(torch, spec.dtype.name)).reshape(spec.shape)
    told = json.loads(header.metadata["snapshot"])
    batch = (int(told["batch"][0]), int(told["batch"][1]))
    return Snapshot(told["identity"], batch, int(told["done"]), int(told["examples"]), int(told["tokens"]), sums)


def begun(target: Path, identity: Identity, total: int, *, restart: bool) -> Snapshot | None:
    """What an earlier run left of this measurement.

    Args:
        target: the file that is being measured.
        identity: of this measurement.
        total: how many examples there are.
        restart: whether what is left of another measurement may be discarded.

    Raises:
        InputError: if it is left of another one.
    """
    found = None if restart else read_snapshot(snapshot_path(target))
    if found is None or found.identity == identity:
        return found
    keys = [key for key in {**identity, **found.identity} if identity.get(key) != found.identity.get(key)]
    changes = listed([f"{key} was {_short(found.identity.get(key))}, now {_short(identity.get(key))}" for key in keys])
    raise InputError(
        f"{target} was begun by a measurement that was interrupted ({found.done} of {total} examples), "
        f"and this one is not the same: {changes}",
        "undo that to go on where it was; or discard what is there with --restart",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
