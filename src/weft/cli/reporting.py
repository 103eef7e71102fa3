"""What a person sees: errors with their exit codes, progress on a terminal or in plain lines."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from weft.cli.stopping import INTERRUPTED, stoppable
from weft.engine.progress import Progress
from weft.errors import InputError, WeftError, printable

FAILED, BAD_INPUT = 1, 2


def console() -> Console:
    """Where results go: standard output."""
    return Console(soft_wrap=not sys.stdout.isatty())


@contextmanager
def reported(as_json: bool, unfinished: Callable[[], str] = str) -> Iterator[None]:
    """Turn Weft's errors into one clear message and an exit code: 2 for bad input, 1 for a merge that failed.

    A request to terminate ends like an interrupt; a second one ends at once, if a long step keeps the first waiting.

    Args:
        as_json: whether errors are printed as JSON.
        unfinished: what to say of work that was not finished, after an error that is not the input's, or an interrupt.
    """
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stoppable(unfinished):
            yield
    except WeftError as error:
        code = BAD_INPUT if isinstance(error, InputError) else FAILED
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": _problems(error)}, indent=2))
        else:
            more = f"\n{unfinished()}".rstrip() if code == FAILED else ""
            text = f"[bold red]error:[/] {literal(str(error) + more)}"
            Console(stderr=True, soft_wrap=True).print(text, highlight=False)
        raise typer.Exit(code) from None
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print(f"interrupted\n{unfinished()}".strip(), highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def _problems(error: WeftError) -> list[dict[str, str]]:
    if isinstance(error, InputError):
        return [{"what": problem.what, "remedy": problem.remedy} for problem in error.problems]
    return [{"what": str(error), "remedy": ""}]


def literal(text: str) -> str:
    """Text that says what it says: no markup, and nothing that would steer the terminal."""
    from rich.markup import escape

    return escape(printable(text))


_BEGUN = 0.02
"""Share of a work from which on its rate says something: kernels may be compiled first."""


class Shown(Progress):
    """Progress on standard error: a bar on a terminal, else a line now and then; quiet but for warnings on request."""

    INTERVAL = 5.0

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._quiet = quiet
        self._lock = Lock()
        self._name, self._total, self._done = "", 0, 0
        self._began = self._told = time.monotonic()
        self._bar: Bar | None = None
        if not quiet and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), *self._amounts(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("reading headers", total=None)

    def __enter__(self) -> Shown:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def phase(self, name: str, total: int) -> None:
        """A new bar, or a line."""
        with self._lock:
            self._name, self._total, self._done = name, total, 0
            self._began = self._told = time.monotonic()
        if self._bar:
            if total:
                self._bar.reset(self._task, total=total)
            self._bar.update(self._task, description=name)
        elif not self._quiet:
            self._line(f"{name}: {self._amount(total)}" if total else name)

    def continued(self, share: float) -> None:
        """A line."""
        if not self._quiet:
            there = f"{share:.0%} of the output" if share else "a part of what is needed to know first"
            self._line(f"going on with an interrupted merge: {there} is there")

    def advance(self, count: int) -> None:
        """Move the bar, or say how far it is every few seconds."""
        if self._bar:
            self._bar.advance(self._task, count)
            return
        with self._lock:
            self._done += count
            now = time.monotonic()
            due = not self._quiet and now - self._told > self.INTERVAL
            self._told = now if due else self._told
        if due:
            rate, known = self._done / (now - self._began), min(self._done, self._total)
            left = f", {(self._total - known) / rate:.0f} s left" if known > _BEGUN * self._total else ""
            done = f"{self._amount(known)} of {self._amount(self._total)}"
            self._line(f"{self._name}: {done}, {self._amount(rate)}/s{left}")

    def note(self, text: str) -> None:
        """A line."""
        if not self._quiet:
            self._line(text)

    def warning(self, text: str) -> None:
        """A line, even when quiet."""
        self._console.print(f"[yellow]warning:[/] {literal(text)}", highlight=False)

    def _line(self, text: str) -> None:
        self._console.print(literal(text), highlight=False)

    def _amounts(self) -> tuple[ProgressColumn, ...]:
        """What a bar says beside itself."""
        return DownloadColumn(), TransferSpeedColumn()

    def _amount(self, count: float) -> str:
        """How much that is, in words."""
        return _size(count)


class Counted(Shown):
    """The same for work that is counted, in rows or tokens, not in bytes."""

    def continued(self, share: float) -> None:
        """A line."""
        if not self._quiet:
            self._line(f"going on with an interrupted measurement: {share:.0%} of the examples are done")

    def _amounts(self) -> tuple[ProgressColumn, ...]:
        return (MofNCompleteColumn(),)

    def _amount(self, count: float) -> str:
        return f"{count:,.0f}" if count >= 10 or count == int(count) else f"{count:.1f}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


size_text = _size
