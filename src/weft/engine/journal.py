"""What of a merge is done. Kept on disk as it goes, it lets a merge that was killed go on where it was.

What it says is written after the data that it speaks of, so a process may die at any instant. Against a power
failure, data and journal are synced every now and then, and after a reboot only what was synced is believed.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weft.checkpoints.beside import JOURNAL, STAGING, beside
from weft.checkpoints.logbook import Logbook, Record, read_records
from weft.engine.ranges import Ranges
from weft.engine.work import Tile
from weft.errors import MergeError

_INTERVAL = 0.25
"""Seconds between two entries, in which work is done that a killed process must do again."""

_SYNC_INTERVAL = 20.0
"""Seconds between two syncs, in which work is done that a power failure may undo."""

_BEGIN_INTERVAL = 0.3
"""Seconds between two requests to the system to begin writing."""

Tally = Mapping[str, int]
"""How often something worth telling happened, by its text, in which `{count}` stands for how often."""

NO_FIGURES: Mapping[str, float] = MappingProxyType({})


class Journal:
    """What is written, what is settled, what was noticed. Safe to use from several threads.

    Args:
        logbook: where it is kept; None to keep it only for as long as the merge runs.
        folder: where snapshots of unfinished statistics go, if it is kept.
    """

    def __init__(self, logbook: Logbook | None = None, folder: Path | None = None) -> None:
        self.folder = folder
        self._logbook = logbook
        self._lock = threading.Lock()
        self._written: dict[str, Ranges] = {}
        self._tallies: dict[str, Counter[str]] = {}
        self._found: Counter[str] = Counter()
        self._figures: dict[str, dict[str, float]] = {}
        self._settled: dict[str, Any] = {}
        self._masks: list[str] = []
        self._pending: Record = {}
        self._entries = 0
        self._failed: OSError | None = None
        self._told = time.monotonic()
        if logbook is not None:
            _believe(logbook)
            for record in logbook.records:
                self._replay(record)
            self._entries = len(logbook.records)
            self._append({"run": _boot()})

    @classmethod
    def replayed(cls, records: Sequence[Record]) -> Journal:
        """What some records tell, only looked at."""
        journal = cls()
        for record in records:
            journal._replay(record)
        return journal

    @property
    def written(self) -> int:
        """How many elements an earlier run left in their places."""
        return sum(map(len, self._written.values()))

    @property
    def masks(self) -> Collection[str]:
        """Tensors that turned out to be constant masks, which are copied."""
        return tuple(self._masks)

    @property
    def is_continued(self) -> bool:
        """Whether an earlier run left something to build upon."""
        return bool(self._written or self._settled)

    def left(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of a range of a tensor that are still to be written."""
        done = self._written.get(name)
        return iter([(start, stop)]) if done is None else done.missing(start, stop)

    def wrote(self, tiles: Sequence[Tile[Any]], tally: Tally, figures: Mapping[str, float] = NO_FIGURES) -> None:
        """These ranges of tensors are in their places; this was noticed in computing them.

        Args:
            tiles: the ranges.
            tally: how often something worth telling happened.
            figures: of the first tensor, by name.

        Raises:
            MergeError: if what was written before could not be brought to the disk.
        """
        self._check()
        with self._lock:
            written = self._pending.setdefault("wrote", {})
            for tile in tiles:
                written.setdefault(tile.item.spec.name, []).append([tile.start, tile.stop])
            name = tiles[0].item.spec.name
            for text, count in tally.items():
                self._count(name, text, count)
                noted = self._pending.setdefault("noted", {}).setdefault(name, {})
                noted[text] = noted.get(text, 0) + count
            if figures:
                self._figures[name] = dict(figures)
                self._pending.setdefault("figures", {})[name] = dict(figures)
            if time.monotonic() - self._told > _INTERVAL:
                self._flush()

    def recall(self, key: Sequence[Any]) -> Any:
        """What was settled under this key, or None."""
        return self._settled.get(repr(tuple(key)))

    def settle(self, key: Sequence[Any], value: Any) -> None:
        """Keep a result, of what JSON knows."""
        with self._lock:
            self._flush()
            self._append({"settled": repr(tuple(key)), "value": value})

    def set_aside(self, masks: Collection[str], forget: Collection[str]) -> None:
        """Some tensors are to be copied after all, and others to be computed anew without them."""
        with self._lock:
            self._flush()
            self._forget([*masks, *forget])
            self._masks += masks
            self._append({"masks": sorted(masks), "forget": sorted(forget)})

    def found(self, counts: Tally) -> None:
        """What the inputs hold that a person should know: so many of each, as far as was seen."""
        with self._lock:
            self._found |= Counter(counts)
            self._pending["found"] = dict(self._found)

    def noticed(self) -> tuple[str, ...]:
        """Everything worth telling, in words, with how often it happened."""
        total: Counter[str] = Counter()
        for counts in self._tallies.values():
            total.update(counts)
        told = sorted([*total.items(), *self._found.items()])
        return (*(text.replace("{count}", f"{count:,}") for text, count in told), *_figures_told(self._figures))

    @contextmanager
    def synced_at_intervals(self, begin: Callable[[], None], sync: Callable[[], None]) -> Iterator[None]:
        """Sync output and journal every now and then while the merge runs.

        Args:
            begin: begins to bring the output to the disk.
            sync: brings all of it there.
        """
        if self._logbook is None:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._sync_until, args=(stop, begin, sync), name="weft-sync", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            while thread.is_alive():
                with suppress(KeyboardInterrupt):  # files must not be closed under it
                    thread.join()
            with self._lock:
                self._flush()
        self._check()

    def _sync_until(self, stop: threading.Event, begin: Callable[[], None], sync: Callable[[], None]) -> None:
        synced = time.monotonic()
        while self._logbook is not None and not stop.wait(min(_BEGIN_INTERVAL, _SYNC_INTERVAL)):
            begin()
            if time.monotonic() - synced < _SYNC_INTERVAL:
                continue
            synced = time.monotonic()
            try:
                self._sync(self._logbook, sync)
            except OSError as error:
                self._distrust(error)
                return

    def _sync(self, logbook: Logbook, sync: Callable[[], None]) -> None:
        with self._lock:
            self._flush()
            entries = self._entries
        sync()
        with self._lock:
            self._append({"synced": entries})
        logbook.sync()

    def _distrust(self, error: OSError) -> None:
        """Once a sync has failed, nobody knows what reached the disk, and no later sync will tell."""
        with self._lock:
            self._failed = error
            with suppress(OSError):
                self._append({"distrust": True})

    def _check(self) -> None:
        if self._failed is not None:
            told = self._failed.strerror or self._failed
            raise MergeError(f"the output could not be brought to the disk: {told}") from self._failed

    def _flush(self) -> None:
        self._told = time.monotonic()
        if self._pending:
            wrote = {name: _joined(ranges) for name, ranges in self._pending.get("wrote", {}).items()}
            self._append({**self._pending, "wrote": wrote})
            self._pending = {}

    def _append(self, record: Record) -> None:
        if self._logbook is not None:
            self._logbook.append(record)
            self._entries += 1

    def _replay(self, record: Record) -> None:
        for name, ranges in record.get("wrote", {}).items():
            done = self._written.setdefault(name, Ranges())
            for start, stop in ranges:
                done.add(start, stop)
        for name, counts in record.get("noted", {}).items():
            for text, count in counts.items():
                self._count(name, text, count)
        self._found |= Counter(record.get("found", {}))
        self._figures |= record.get("figures", {})
        self._forget([*record.get("masks", ()), *record.get("forget", ())])
        self._masks += record.get("masks", ())
        if "settled" in record:
            self._settled[record["settled"]] = record["value"]

    def _count(self, name: str, text: str, count: int) -> None:
        self._tallies.setdefault(name, Counter())[text] += count

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._written.pop(name, None)
            self._tallies.pop(name, None)
            self._figures.pop(name, None)


def _figures_told(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """For every figure the largest value, with its tensor, and the mean."""
    for figure in sorted({figure for own in figures.values() for figure in own}):
        values = {name: own[figure] for name, own in sorted(figures.items()) if figure in own}
        largest = max(values, key=lambda name: values[name])
        mean = math.fsum(values.values()) / len(values)
        told = f"{figure}: at most {values[largest]:.2g} (tensor {largest!r})"
        yield f"{told}, {mean:.2g} on average over {len(values):,} tensors" if len(values) > 1 else told


def holds_work(target: Path) -> bool:
    """Whether an interrupted merge left more of an output than the note of what it was to be."""
    folder = beside(target, STAGING)
    return Journal.replayed(read_records(folder / JOURNAL)).is_continued or any((folder / "statistics").glob("*"))


def share_written(records: Sequence[Record], elements: int) -> float:
    """How much of an output was in its place when these were the records, between 0 and 1."""
    return Journal.replayed(records).written / elements if elements else 1.0


def _joined(ranges: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    joined = Ranges()
    for start, stop in ranges:
        joined.add(start, stop)
    return list(joined)


def _believe(logbook: Logbook) -> None:
    """Forget what was not synced after a reboot, or a sync that failed: its data may never have reached the disk."""
    boots = [record["run"] for record in logbook.records if "run" in record]
    is_distrusted = any("distrust" in record for record in logbook.records)
    if not boots or (boots[-1] and boots[-1] == _boot() and not is_distrusted):
        return
    counts = [record["synced"] for record in logbook.records if "synced" in record]
    commits = [k + 1 for k, record in enumerate(logbook.records) if "commit" in record]
    logbook.keep(max([1, *counts, *commits]))


def _boot() -> str:
    """What tells one run of the machine from another; empty where nothing does."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
