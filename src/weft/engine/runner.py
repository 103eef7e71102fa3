"""Many threads, one queue. Kernels and file calls release the interpreter lock, so threads are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TypeVar

Task = TypeVar("Task")
State = TypeVar("State")

_BATCH = 1 << 17
"""Size of tasks that are given to a thread at once."""


class Runner:
    """Runs a step for every task of a stream on a number of threads, each with a state of its own.

    Args:
        threads: how many; with one, everything runs in the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def run(
        self,
        tasks: Iterable[Task],
        start: Callable[[], State],
        step: Callable[[State, Task], None],
        size: Callable[[Task], int] | None = None,
    ) -> list[State]:
        """Work through the tasks.

        Args:
            tasks: consumed lazily, by one thread at a time.
            start: makes the state of a thread.
            step: does one task.
            size: how large a task is; small ones are given to a thread several at a time.

        Returns:
            The states, in no particular order. What is computed must not depend on which thread did what.

        Raises:
            Exception: the first that a step raised; the other threads stop after their current task.
        """
        queue = _batches(tasks, size) if size else ([task] for task in tasks)
        lock, stop = Lock(), Event()
        states = [start() for _ in range(self._threads)]

        def work(state: State) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        batch = next(queue, None)
                    if batch is None:
                        return
                    for task in batch:
                        step(state, task)
            except BaseException:
                stop.set()
                raise

        if self._threads == 1:
            work(states[0])
            return states
        with ThreadPoolExecutor(self._threads, thread_name_prefix="weft") as pool:
            futures = [pool.submit(work, state) for state in states]
            try:
                wait(futures)
            finally:
                stop.set()
            for future in futures:
                future.result()
        return states


def _batches(tasks: Iterable[Task], size: Callable[[Task], int]) -> Iterator[list[Task]]:
    """Tasks that follow each other, as many as are together large enough."""
    batch: list[Task] = []
    total = 0
    for task in tasks:
        batch.append(task)
        total += size(task)
        if total >= _BATCH:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
