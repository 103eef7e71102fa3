"""Ctrl-C, answered even while a long computation cannot be left."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130
_PATIENCE = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable(unfinished: Callable[[], str] = str) -> Iterator[None]:
    """Let the first interrupt stop when what is in hand is done, and say so; let the second stop at once.

    Python answers a signal between two of its own steps, and a decomposition of a large matrix is one step. A thread
    hears of signals through a socket, which the system's own handler writes to at once. To end at once loses nothing: a
    merge may be killed anywhere.

    Args:
        unfinished: what to say of work that was not finished.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watching = threading.Thread(target=_watch, args=(ours, unfinished), daemon=True)
    watching.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        watching.join()
        ours.close()


def _watch(end: socket.socket, unfinished: Callable[[], str]) -> None:
    """Count interrupts until the other end is closed."""
    heard = 0
    while True:
        try:
            told = end.recv(64)
        except TimeoutError:
            _say("stopping when what is being computed is done; once more stops at once, and loses no more than that")
            end.settimeout(None)
            continue
        if not told:
            return
        heard += sum(number in _SIGNALS for number in told)
        if heard > 1:
            _say(f"interrupted\n{unfinished()}".strip())
            os._exit(INTERRUPTED)
        if heard:
            end.settimeout(_PATIENCE)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
