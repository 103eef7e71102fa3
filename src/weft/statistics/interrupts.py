"""Ctrl-C between two batches. Raised in the middle of one, inside a callback of torch, it could be swallowed there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_between() -> Iterator[Callable[[], None]]:
    """Hold an interrupt back until what is yielded is called; a second one comes at once.

    Example:
        >>> with interrupts_between() as check:
        ...     check()
    """
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
