"""Python's collector of cyclic garbage, told to wait while a plan is made and carried out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """Keep the collector from running meanwhile; also a decorator.

    A plan of a large model is hundreds of thousands of small objects, all of which live until the merge is done. While
    they are made, and while they are there, the collector goes over them again and again and finds nothing, which takes
    a third of the time.

    Example:
        >>> with collector_waits():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
